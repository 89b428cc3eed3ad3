"""The driver: programs, weights, training and inference over any `Device`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from insitu.arch.declaration import Role
from insitu.arch.isa import Opcode
from insitu.arch.numbers import EXPONENT_MAX, EXPONENT_MIN, FixedFormat
from insitu.arch.params import ARCH_VERSION, CoreParams
from insitu.arch.program import Program
from insitu.arch.registers import IDENTITY, REGISTERS, Error
from insitu.host.device.counters import Counters
from insitu.host.device.packing import Integers, Packing
from insitu.host.device.protocol import Buffer, Device, lane_dtype
from insitu.host.device.registers import Registers
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import DeviceError, DeviceMismatch, DeviceTimeout, ProgramFault, TwoPasses

#: Seconds a wait may take unless told otherwise.
TIMEOUT = 30.0

Real = npt.NDArray[np.float32]


class Driver:
    """A device with a program. A context manager: leaving it closes the device.

    Samples and targets may be given as real numbers (quantised to their format) or as integers that already are in it.
    """

    def __init__(self, device: Device, *, timeout: float = TIMEOUT) -> None:
        self.device = device
        self.core = device.core
        self.registers = Registers(device)
        self.timeout = timeout
        self._program: Program | None = None
        self.logits_tensor = ""  #: the program's tensor that `infer` and `train` store
        self._error_tensor = ""  # that `train_host` takes from the host
        self._weights: list[str] = []  # in the order `load_weights` takes them
        self._velocities: list[str] = []  # in the order `load_velocities` takes them
        self._resident: Program | None = None  # the program, or its part of a step, whose words the device has
        self._made: dict[tuple[bool, bool], Program] = {}  # parts by whether they are the first and the last
        self._packings: dict[str, Packing] = {}
        identity, version = self.registers["ID"], self.registers["VERSION"]
        if identity != IDENTITY or version != ARCH_VERSION:
            raise DeviceMismatch(
                f"no insitu core of version {ARCH_VERSION} answers: ID {identity:#010x}, VERSION {version}"
            )
        self._check_hash(self.core)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the device back."""
        self.device.close()

    # Programs.

    @property
    def program(self) -> Program:
        """The program in the device. Raises DeviceError where none was loaded."""
        if self._program is None:
            raise DeviceError("no program loaded: call load(program) first")
        return self._program

    def load(self, program: Program) -> None:
        """Put a program into the device and set its scale registers. Raises DeviceMismatch where the device's
        parameter hash is not the one the program was made for, DeviceError for exponents that it cannot find."""
        self._check_hash(program.core)
        self._load_words(program)
        # Tensors may share a place when they are not needed at the same time, never a scale register as well.
        by_place = {(t.matrix, t.scale): name for name, t in program.tensors.items()}
        loss = next(i for i in program.entry("train") if i.opcode is Opcode.LOSS)
        self.logits_tensor, self._error_tensor = by_place[loss.a, loss.sa], by_place[loss.d, loss.sd]
        self._weights = self._loaded("load_weights", Role.MASTER)
        self._velocities = [] if program.optimizer.plain else self._loaded("load_velocities", Role.MOMENTUM)
        self._packings = {}
        for index, exponent in enumerate(program.scales):
            self.set_scale(index, exponent)
        if program.tables:
            self._run("load_tables", [self._beats(name, program.table(name)) for name in program.tables], [])

    def _loaded(self, entry: str, role: Role) -> list[str]:
        """Tensors of a role in the order in which an entry loads them."""
        names = {t.matrix: name for name, t in self.program.tensors.items() if t.role is role}
        return [names[i.d] for i in self.program.entry(entry) if i.opcode is Opcode.LOAD]

    def replace_program(self, program: Program) -> None:
        """Put a program of the same tensors in place of the loaded one, scale registers and velocities left as they
        are: for another learning rate."""
        if program.tensors != self.program.tensors:
            raise DeviceMismatch("the new program has other tensors: load it instead")
        self._load_words(program)

    def _load_words(self, program: Program) -> None:
        """All words of a program."""
        if program.exact and not self.device.exact_exponents:
            raise TwoPasses
        self._resident = None
        self._send_words(program, 0, len(program.instructions))
        self._program = self._resident = program
        self._made = {}

    def _select(self, part: Program) -> None:
        """Put a part of the program's step in place of the one that is there: the words that differ."""
        there = self._resident
        if there is part:
            return
        differ = np.arange(len(part.instructions))
        if there is not None and len(there.instructions) == len(part.instructions):
            differ = np.flatnonzero((there.words != part.words).any(axis=1))
        self._resident = None
        if differ.size:
            self._send_words(part, int(differ[0]), int(differ[-1]) + 1)
        self._resident = part

    def _send_words(self, program: Program, first: int, end: int) -> None:
        words = program.words[first:end].reshape(-1)
        beats = self.device.allocate(len(words))
        lanes = 32 // self.core.lane_bits
        beats[:, :lanes] = words.astype("<u4").view(lane_dtype(self.core)).reshape(-1, lanes)
        self.registers["ENTRY"] = first
        self.registers["COUNT"] = end - first
        self.registers.command("load_program")
        with self._ready_again():
            self.device.send(beats).wait(self.timeout)
            self.device.wait_done(self.timeout)

    def _check_hash(self, core: CoreParams) -> None:
        found = self.registers["HASH_HI"] << 32 | self.registers["HASH_LO"]
        if found != core.hash:
            raise DeviceMismatch(
                f"the device's parameter hash is {found:016x}, the program's core has {core.hash:016x}"
            )

    # Scale registers, seed, counters.

    def scale(self, index: int, field: str = "exponent") -> int:
        """The exponent in use in a scale register, or the `next` one."""
        self._check_scale(index)
        byte = REGISTERS["SCALE"].fields[field].of(self.registers["SCALE", index])
        return byte - 256 if byte > EXPONENT_MAX else byte

    def set_scale(self, index: int, exponent: int, following: int | None = None) -> None:
        """Set a scale register, both its exponent in use and the one the next tracked run commits."""
        self._check_scale(index)
        following = exponent if following is None else following
        for value in (exponent, following):
            if not EXPONENT_MIN <= value <= EXPONENT_MAX:
                raise DeviceError(f"exponent {value}: allowed are {EXPONENT_MIN} to {EXPONENT_MAX}")
        fields = REGISTERS["SCALE"].fields
        self.registers["SCALE", index] = fields["exponent"].put(exponent) | fields["next"].put(following)

    def _check_scale(self, index: int) -> None:
        if not 0 <= index < self.core.scales:
            raise DeviceError(f"scale register {index}: this core has {self.core.scales}, from 0")

    def format(self, tensor: str) -> FixedFormat:
        """A tensor's format with the exponent now in use."""
        t = self.program.tensors[tensor]
        return FixedFormat(width=t.width, exponent=self.scale(t.scale))

    @property
    def seed(self) -> int:
        """Seed of stochastic rounding; steps as programs draw."""
        return self.registers["SEED"]

    @seed.setter
    def seed(self, value: int) -> None:
        self.registers["SEED"] = value

    @property
    def counters(self) -> Counters:
        r = self.registers
        return Counters(
            cycles=r.counter("CYCLES"),
            macs=r.counter("MACS"),
            instructions=r["INSTRUCTIONS"],
            saturated=r["SATURATED"],
            stall_in=r["STALL_IN"],
            stall_out=r["STALL_OUT"],
            accumulator_overflow=bool(r.field("STATUS", "accumulator_overflow")),
        )

    def clear_counters(self) -> None:
        """Set counters and sticky flags to zero."""
        self.registers.command("clear")

    # Running.

    def start(self, entry: str) -> None:
        """Start an entry of the program; does not wait."""
        self.registers["ENTRY"] = self.program.start(entry)
        self.registers.command("start")

    def wait(self) -> None:
        """Wait for the running entry. Raises DeviceTimeout, or ProgramFault where it stopped with an error; either way
        the device is made ready for the next program."""
        with self._ready_again():
            self.device.wait_done(self.timeout)
            self._check_status()

    @contextmanager
    def _ready_again(self) -> Iterator[None]:
        """Abort whatever is left over, in the device and in the streams, when the block fails."""
        try:
            yield
        except BaseException:
            self.registers.command("abort")
            raise

    def _check_status(self) -> None:
        status, fields = self.registers["STATUS"], REGISTERS["STATUS"].fields
        error = fields["error"].of(status)
        if error:
            pc = fields["pc"].of(status)
            known = self._program is not None and pc < len(self._program.instructions)
            text = str(self.program.instructions[pc]) if known else "outside the program"
            raise ProgramFault(f"the program stopped at instruction {pc} ({text}): {Error(error).name}")

    def _run(self, entry: str, sent: list[Buffer], received: list[Buffer]) -> None:
        """Run an entry: what it loads, what it stores, in order."""
        self.start(entry)
        with self._ready_again():
            coming = [self.device.receive(b) for b in received]
            transfers = [self.device.send(b) for b in sent]
            try:
                for transfer in (*transfers, *coming):
                    transfer.wait(self.timeout)
            except DeviceTimeout:
                self._check_status()  # a program that stopped says more than a stream that did
                raise
        self.wait()

    def run(self, entry: str, given: Mapping[str, Integers], wanted: Sequence[str]) -> dict[str, Integers]:
        """Run an entry of the program: integers of the tensors that it loads, in its order, [n, width]; the matrices
        [rows, columns] of those that it stores, likewise."""
        stored = {name: self._stored(name) for name in wanted}
        self._run(entry, [self._beats(name, values) for name, values in given.items()], list(stored.values()))
        return {name: self._matrix(name, buffer) for name, buffer in stored.items()}

    # Samples.

    def quantise(self, tensor: str, values: npt.ArrayLike) -> Integers:
        """Real numbers [n, ...] in a tensor's format, flattened to [n, features]; integers pass as they are."""
        array = self._packing(tensor).flat(np.asarray(values))
        if array.dtype.kind not in "biuf":
            raise DeviceError(f"{tensor} of {array.dtype}: expected numbers")
        if array.dtype.kind in "iu":
            fmt = self.program.initial_format(tensor)
            held = np.iinfo(array.dtype)
            surely = held.min >= fmt.minimum and held.max <= fmt.maximum  # its dtype says so: no need to look
            if array.size and not surely and (array.min() < fmt.minimum or array.max() > fmt.maximum):
                bad = array.max() if array.max() > fmt.maximum else array.min()
                raise DeviceError(
                    f"{tensor} holds the integer {bad}: its {fmt.width} bits hold {fmt.minimum} to {fmt.maximum} "
                    "(give real numbers to have them quantised)"
                )
            return array.astype(fmt.dtype, copy=False)
        return self.format(tensor).quantise(array)

    def _packing(self, tensor: str) -> Packing:
        """How a tensor's values lie in beats; found when first asked for, kept as long as the program."""
        if tensor not in self._packings:
            self._packings[tensor] = Packing(tensor, self.program.tensors[tensor], self.core.n)
        return self._packings[tensor]

    def _beats(self, tensor: str, values: Integers) -> Buffer:
        """Integers [n, width] as the beats of a LOAD, short batches filled with zeros."""
        packing = self._packing(tensor)
        return packing.fill(self.device.allocate(packing.beats), values)

    def _stored(self, tensor: str) -> Buffer:
        return self.device.allocate(self._packing(tensor).beats)

    def _matrix(self, tensor: str, buffer: Buffer) -> Integers:
        return self._packing(tensor).matrix(buffer)

    def infer(self, x: npt.ArrayLike) -> Real:
        """Logits float32 [n, classes] of samples [n, ...], in batches of the program's."""
        samples = self.quantise("sample", x)
        name, batch = self.logits_tensor, self.program.batch
        out = np.empty((len(samples), self.program.tensors[name].matrix.cols), dtype=np.float32)
        for first in range(0, len(samples), batch):
            part = samples[first : first + batch]
            stored = self._stored(name)
            self._run("infer", [self._beats("sample", part)], [stored])
            out[first : first + batch] = self._matrix(name, stored)[: len(part)]
        return np.ldexp(out, self.format(name).exponent)

    def train(self, x: npt.ArrayLike, targets: npt.ArrayLike) -> Real:
        """One training step on at most a step's samples [n, ...] with target distributions [n, classes]; the logits
        before it, float32 [n, classes]. More than a batch come in parts, whose gradients gather in the velocities. Rows
        that are missing have targets of zero, and so train nothing; the learning rate is of the mean over all samples
        that a step can have."""
        samples, wanted = self.quantise("sample", x), self.quantise("target", targets)
        self._check_batch(samples)
        if len(wanted) != len(samples):
            raise DeviceError(f"{len(wanted)} targets for {len(samples)} samples")
        logits = []
        for rows in self._parts(len(samples)):
            stored = self._stored(self.logits_tensor)
            self._run("train", [self._beats("sample", samples[rows]), self._beats("target", wanted[rows])], [stored])
            logits.append(self._real_logits(stored)[: rows.stop - rows.start])
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def _parts(self, count: int) -> Iterator[slice]:
        """The rows of each part of a step of `count` samples, its program in the device."""
        program, batch = self.program, self.program.batch
        starts = range(0, count, batch)
        for first in starts:
            ends = first == 0, first == starts[-1]
            if ends not in self._made:
                self._made[ends] = program.micro_step(first=ends[0], last=ends[1])
            self._select(self._made[ends])
            yield slice(first, min(first + batch, count))

    def train_with(self, x: npt.ArrayLike, gradient: Callable[[Real], npt.ArrayLike]) -> Real:
        """One training step with a loss of the host's, on at most a step's samples: `gradient(logits)` gives
        dL/dlogits [n, classes] of the summed loss, which goes to the device at the finest exponent that holds it (a
        power of two saturates by one step); of more than a batch it is asked part by part, in order.
        Returns the logits [n, classes]."""
        samples = self.quantise("sample", x)
        self._check_batch(samples)
        return np.concatenate([self._train_part(samples[rows], gradient) for rows in self._parts(len(samples))])

    def _train_part(self, samples: Integers, gradient: Callable[[Real], npt.ArrayLike]) -> Real:
        stored = self._stored(self.logits_tensor)
        self.start("train_host")
        with self._ready_again():
            coming = self.device.receive(stored)
            self.device.send(self._beats("sample", samples)).wait(self.timeout)
            coming.wait(self.timeout)
            logits = self._real_logits(stored)[: len(samples)]
            wanted = np.asarray(gradient(logits), dtype=np.float64)
            if wanted.shape != logits.shape or not np.isfinite(wanted).all():
                raise DeviceError(f"gradient of shape {wanted.shape}: expected finite numbers of shape {logits.shape}")
            tensor = self.program.tensors[self._error_tensor]
            fmt = FixedFormat.covering(float(np.abs(wanted).max()), width=tensor.width)
            self.set_scale(tensor.scale, fmt.exponent)
            self.device.send(self._beats(self._error_tensor, fmt.quantise(wanted))).wait(self.timeout)
        self.wait()
        return logits

    def _real_logits(self, stored: Buffer) -> Real:
        name = self.logits_tensor
        return np.ldexp(self._matrix(name, stored).astype(np.float32), self.format(name).exponent)

    def _check_batch(self, values: Integers) -> None:
        most = self.program.step_samples
        if not 1 <= len(values) <= most:
            raise DeviceError(f"{len(values)} samples: this program trains on 1 to {most}")

    # Weights.

    def write_weights(self, masters: Mapping[str, Integers], velocities: Mapping[str, Integers] | None = None) -> None:
        """Masters by tensor name, each integers [outputs, taps * inputs (+ 1)], and their velocities, which rest where
        none are given. Raises DeviceError where one is missing, unknown, not of integers or out of range."""
        if velocities is None:
            velocities = {name: np.zeros(self._shape(name), dtype=np.int16) for name in self._velocities}
        weights = self._checked("weights", masters, self._weights)
        moving = self._checked("velocities", velocities, self._velocities)
        self._run("load_weights", weights, [])
        if moving:
            self._run("load_velocities", moving, [])

    def _shape(self, name: str) -> tuple[int, int]:
        matrix = self.program.tensors[name].matrix
        return matrix.rows, matrix.width

    def _checked(self, what: str, values: Mapping[str, Integers], names: list[str]) -> list[Buffer]:
        """Tensors' beats in the order of their names."""
        values = {name: np.asarray(q) for name, q in values.items()}
        if set(values) != set(names):
            raise DeviceError(f"{what} of {sorted(values)}: this program has {sorted(names)}")
        for name in names:
            tensor, shape = self.program.tensors[name], self._shape(name)
            if values[name].shape != shape:
                raise DeviceError(f"{name} of shape {values[name].shape}: expected {shape}")
            if values[name].dtype.kind not in "iu":
                raise DeviceError(f"{name} of {values[name].dtype}: masters are integers (quantise makes them)")
            half = 1 << (tensor.width - 1)
            if values[name].min() < -half or values[name].max() >= half:
                raise DeviceError(f"{name}: a {tensor.role} is outside the {tensor.width} bits it has")
        return [self._beats(name, values[name]) for name in names]

    def read_weights(self) -> dict[str, npt.NDArray[np.int32]]:
        """Masters by tensor name: int32 [outputs, taps * inputs (+ 1)]."""
        return self._read("store_weights", self._weights)

    def read_velocities(self) -> dict[str, npt.NDArray[np.int32]]:
        """Velocities by tensor name, laid out as their masters: int32, empty where the optimiser has none."""
        return self._read("store_velocities", self._velocities) if self._velocities else {}

    def _read(self, entry: str, names: list[str]) -> dict[str, npt.NDArray[np.int32]]:
        buffers = [self._stored(n) for n in names]
        self._run(entry, [], buffers)
        return {n: self._matrix(n, b).astype(np.int32) for n, b in zip(names, buffers, strict=True)}

    def snapshot(self) -> Snapshot:
        """Masters, velocities, scale registers and seed: all that further runs depend on."""
        scales = [(self.scale(i), self.scale(i, "next")) for i in range(len(self.program.scales))]
        return Snapshot(
            masters=self.read_weights(),
            velocities=self.read_velocities(),
            scales=np.array(scales, dtype=np.int64),
            seed=self.seed,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Bring masters, velocities, scale registers and seed back."""
        self.write_weights(snapshot.masters, snapshot.velocities)
        for index, (exponent, following) in enumerate(snapshot.scales.tolist()):
            self.set_scale(index, exponent, following)
        self.seed = snapshot.seed
