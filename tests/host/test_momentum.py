"""Momentum, weight decay and batches in parts, from the compiler to the driver, beside torch's SGD."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.arch.declaration import Declaration, Role
from insitu.arch.isa import UPDATES, Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.host.compiler.compile import Compiled, compile_module
from insitu.host.compiler.rate import with_learning_rate
from insitu.host.device import Driver, open_device
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import CheckpointError, CompileError, DeviceError
from insitu.models.students import mlp
from tests.host.device_suite import same

WIDE = Declaration.parse("w16a16e16g16m32c48t16v16", exponent="static")
NARROW = Declaration.parse("w8a8e8g8m16v16")
DEPTHS = {"act_depth": 4096, "err_depth": 4096, "wgt_depth": 2048}
CORE = CoreParams(n=4, **DEPTHS).with_declaration(WIDE)
EDGE = CoreParams(n=4, **DEPTHS).with_declaration(NARROW)
BATCH, CLASSES, LR = 12, 3, 0.25

Real = npt.NDArray[np.float32]


def perceptron() -> nn.Sequential:
    return mlp([10, 9, CLASSES], seed=3)


def convolutional() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, groups=4, bias=False),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, CLASSES, bias=False),
        )


STUDENTS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "perceptron": (perceptron, (10,)),
    "convolutional": (convolutional, (2, 6, 5)),
}


def samples(shape: tuple[int, ...], count: int = BATCH) -> tuple[Real, Real]:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (count, *shape)).astype(np.float32)
    return x, np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, count)]


def compiled(student: str = "perceptron", **changes: Any) -> Compiled:
    build, shape = STUDENTS[student]
    x, targets = samples(shape, 4 * BATCH)
    given = {"core": CORE, "declaration": WIDE, "batch": BATCH, "calibration": x, "targets": targets}
    return compile_module(build(), **given | {"learning_rate": LR} | changes)


def loaded(made: Compiled, **options: Any) -> Driver:
    driver = open_device(made.program.core, **options)
    driver.load(made.program)
    driver.write_weights(made.masters)
    return driver


def weights(made: Compiled, masters: dict[str, npt.NDArray[np.int32]]) -> dict[str, npt.NDArray[np.float64]]:
    """Masters as real numbers."""
    return {name: made.program.initial_format(name).real(q) for name, q in masters.items()}


def softmax_steps(driver: Driver, x: Real, targets: Real, steps: int) -> None:
    """Steps with the host's exact gradient of cross-entropy: the device's own takes 2**f for 1 + f."""
    for _ in range(steps):
        wanted = iter(np.split(targets, range(driver.program.batch, len(targets), driver.program.batch)))
        driver.train_with(x, lambda z, wanted=wanted: F.softmax(torch.from_numpy(z), 1).numpy() - next(wanted))


def moved(made: Compiled, x: Real, targets: Real, steps: int) -> dict[str, npt.NDArray[np.float64]]:
    """By how much each master moves on a device."""
    with loaded(made) as driver:
        softmax_steps(driver, x, targets, steps)
        after = weights(made, driver.read_weights())
    before = weights(made, made.masters)
    return {name: after[name] - before[name] for name in after}


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest distance of a layer's movements, as a share of them."""
    return max(float(np.linalg.norm(one[k] - other[k]) / np.linalg.norm(other[k])) for k in other)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 0.0), (0.0, 0.03), (0.9, 0.03)])
def test_steps_are_torchs(student: str, momentum: float, weight_decay: float, parts: int) -> None:
    build, shape = STUDENTS[student]
    x, targets = samples(shape)
    optimizer = {"momentum": momentum, "weight_decay": weight_decay}
    made = compiled(student, **optimizer, micro_batches=parts)
    # 0.9 is 230 / 256 on the device.
    module, kept = build().double(), round(momentum * 256) / 256
    first = [p.detach().clone() for p in module.parameters()]
    rule = torch.optim.SGD(module.parameters(), LR, momentum=kept, weight_decay=weight_decay)
    for _ in range(4):
        rule.zero_grad()
        F.cross_entropy(module(torch.from_numpy(x).double()), torch.from_numpy(targets).double()).backward()
        rule.step()
    got = moved(made, x, targets, 4)
    by_layer = {layer.name: layer for layer in made.graph.layers}
    steps = {id(p): (p.detach() - q).numpy() for p, q in zip(module.parameters(), first, strict=True)}
    layers = [m for m in module if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer, name in zip(layers, by_layer, strict=True):
        weight = steps[id(layer.weight)]
        taps = weight[0, 0].size if weight.ndim > 2 else 1
        columns = weight.reshape(len(weight), -1, taps).transpose(0, 2, 1).reshape(len(weight), -1)
        depthwise = by_layer[name].depthwise
        found = got[f"{name}.weight"]
        found = found[:taps].T if depthwise else found[:, : columns.shape[1]]
        assert np.linalg.norm(found - columns) < 0.01 * np.linalg.norm(columns), name


@pytest.mark.parametrize("student", STUDENTS)
def test_a_batch_in_parts_is_one_batch(student: str) -> None:
    x, targets = samples(STUDENTS[student][1])
    whole = moved(compiled(student, momentum=0.9, weight_decay=0.01), x, targets, 3)
    for parts in (2, 4):
        made = compiled(student, momentum=0.9, weight_decay=0.01, micro_batches=parts)
        assert made.program.batch == BATCH // parts
        assert apart(moved(made, x, targets, 3), whole) < 0.02


def test_parts_gather_without_momentum_and_short_batches_end_early() -> None:
    x, targets = samples((10,))
    made = compiled(micro_batches=4)
    plain = compiled()
    for count in (BATCH, 7, 3, 1):
        assert apart(moved(made, x[:count], targets[:count], 1), moved(plain, x[:count], targets[:count], 1)) < 0.02
    with loaded(made) as driver:
        logits = driver.infer(x)
        np.testing.assert_array_equal(driver.train(x, targets), logits)  # all parts see the weights from before
        driver.train(x[:4], targets[:4])
        with pytest.raises(DeviceError, match="13 samples: this program trains on 1 to 12"):
            driver.train(*samples((10,), 13))


def test_rounding_does_not_drift() -> None:
    """Without gradients a master goes where its velocity takes it, on average over many: the device's random bits."""
    made = compile_module(
        mlp([64, 48, CLASSES], seed=3), core=EDGE, declaration=NARROW, batch=4, calibration=samples((64,))[0],
        learning_rate=0.01, momentum=0.9,
    )  # fmt: skip
    x = samples((64,), 4)[0]
    name = next(n for n, t in made.program.tensors.items() if t.role is Role.MOMENTUM)
    place = made.program.tensors[name].matrix
    fraction = next(i.velocity_fraction for i in made.program.instructions if i.velocities == place)
    assert fraction > 2
    with loaded(made) as driver:
        for start in (0, 1, -3):
            zero = {k: np.zeros_like(v) for k, v in driver.read_velocities().items()}
            driver.write_weights(made.masters, zero | {name: np.full_like(zero[name], start)})
            before = driver.read_weights()
            for _ in range(120):
                driver.train(x, np.zeros((4, CLASSES), np.float32))
            after = driver.read_weights()
            weight = name.replace("velocity", "weight")
            assert not driver.read_velocities()[name].any()
            got = (after[weight] - before[weight]).astype(np.float64)
            if start == 0:
                assert not got.any()
                continue
            # The sum of start * mu**t over the steps, in the masters' units.
            expected = -start * (230 / 256) / (1 - 230 / 256) / 2**fraction
            assert abs(got.mean() - expected) < 4 * got.std() / np.sqrt(got.size)


def test_a_snapshot_keeps_velocities(tmp_path: Path) -> None:
    made = compiled(declaration=NARROW, core=EDGE, momentum=0.9, weight_decay=1e-3, micro_batches=3)
    x, targets = samples((10,))
    with loaded(made) as driver:
        for _ in range(3):
            driver.train(x, targets)
        start = driver.snapshot()
        assert all(v.any() for v in start.velocities.values())
        first, end = driver.train(x, targets), driver.snapshot()
        start.save(tmp_path / "s.npz", note=np.arange(3))
        read, extra = Snapshot.load(tmp_path / "s.npz", made.program)
        assert list(extra) == ["note"]
        assert same(read, start)
        assert all(np.array_equal(read.velocities[k], v) for k, v in start.velocities.items())
        driver.restore(read)
        np.testing.assert_array_equal(driver.train(x, targets), first)
        assert same(driver.snapshot(), end)
        assert all(np.array_equal(driver.read_velocities()[k], v) for k, v in end.velocities.items())
        driver.write_weights(made.masters)
        assert not any(v.any() for v in driver.read_velocities().values())
        with pytest.raises(DeviceError, match="velocities of"):
            driver.write_weights(made.masters, {})
        with pytest.raises(CheckpointError):
            Snapshot.load(tmp_path / "s.npz", compiled(declaration=NARROW, core=EDGE).program)


def test_another_rate_keeps_velocities() -> None:
    made = compiled(momentum=0.9, weight_decay=0.01)
    x, targets = samples((10,))
    slower = with_learning_rate(made.program, LR / 4)
    for before, after in zip(made.program.instructions, slower.instructions, strict=True):
        if before.opcode not in UPDATES:
            continue
        assert before.velocity_fraction == after.velocity_fraction
        assert after.decay_mul * 2.0**-after.decay_shift == pytest.approx(LR / 4 * 0.01, rel=0.01)
    still = with_learning_rate(made.program, 1e-12)
    assert {i.decay_mul for i in still.instructions} == {0}
    with loaded(made) as driver:
        softmax_steps(driver, x, targets, 2)
        before = driver.read_velocities()
        driver.replace_program(slower)
        after = driver.read_velocities()
        assert all(np.array_equal(before[k], v) for k, v in after.items())
        assert any(v.any() for v in before.values())


def test_frozen_layers_have_no_velocities() -> None:
    module = perceptron()
    linear = [m for m in module if isinstance(m, nn.Linear)]
    for p in linear[0].parameters():
        p.requires_grad_(False)
    x, targets = samples((10,))
    made = compile_module(
        module, core=CORE, declaration=WIDE, batch=BATCH, calibration=x, momentum=0.9, weight_decay=0.1
    )
    velocities = [t for t in made.program.tensors.values() if t.role is Role.MOMENTUM]
    assert [t.matrix.memory for t in velocities] == [Memory.VEL]
    assert sum(i.opcode is Opcode.UPDATE for i in made.program.entry("train")) == 1
    steps = moved(made, x, targets, 2)
    assert sorted(np.any(step) for step in steps.values()) == [False, True]


def test_velocities_that_saturate_are_counted() -> None:
    made = compiled(declaration=NARROW, core=EDGE, momentum=0.9, learning_rate=0.01)
    x, targets = samples((10,))
    with loaded(made, statistics=True) as driver:
        driver.replace_program(with_learning_rate(made.program, 50.0))
        driver.train(x, targets)
        driver.train(x, targets)
        device: Any = driver.device
        matrices = [t.matrix for t in made.program.tensors.values() if t.role is Role.MOMENTUM]
        found = [device.statistics.of(m) for m in matrices]
        assert [s.elements for s in found] == [2 * m.rows * m.width for m in matrices]
        assert sum(s.saturated for s in found) > 0
        assert driver.counters.saturated >= sum(s.saturated for s in found)


def test_velocities_have_room_for_the_decay() -> None:
    """Where the student already answers as it should, only the decay moves it."""
    x, _ = samples((10,))
    with torch.no_grad():
        targets = F.softmax(perceptron()(torch.from_numpy(x)), 1).numpy()
    made = compiled(declaration=NARROW, core=EDGE, targets=targets, calibration=x, momentum=0.9, weight_decay=0.2)
    with loaded(made, statistics=True) as driver:
        for _ in range(12):
            driver.train_with(x, np.zeros_like)
        device: Any = driver.device
        velocities = [t.matrix for t in made.program.tensors.values() if t.role is Role.MOMENTUM]
        assert [device.statistics.of(m).saturated for m in velocities] == [0, 0]


def test_the_batch_that_fits_is_one_of_as_many_parts() -> None:
    small = CoreParams(n=4, **DEPTHS | {"act_depth": 64}).with_declaration(NARROW)
    x, targets = samples((10,), 240)
    with pytest.raises(CompileError, match=r"the largest batch that fits is \d+ in 4 micro-batches$") as refused:
        compiled(core=small, declaration=NARROW, calibration=x, targets=targets, batch=240, micro_batches=4)
    largest = int(str(refused.value).split("that fits is ")[1].split()[0])
    compiled(core=small, declaration=NARROW, batch=largest, micro_batches=4)
    with pytest.raises(CompileError, match="ACT holds"):
        compiled(core=small, declaration=NARROW, batch=largest + 4, micro_batches=4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"declaration": Declaration.parse("w16a16e16g16m32c48t16")}, "need velocities: declare their bits, such as"),
        ({"core": CoreParams(n=4, **DEPTHS), "declaration": NARROW}, "momentum of 16 bits, this core's has 0"),
        ({"momentum": 1.0}, "momentum 1.0: must be at least 0 and below 1"),
        ({"momentum": 0.9999}, r"momentum 0.9999: the device has 0.0039 to 0.9961, or 0"),
        ({"weight_decay": 1e-12}, r"weight decay 1e-12 at learning rate 0.25 is 2.5e-13 of a weight a step"),
        ({"weight_decay": 8.0}, "learning rate times weight decay is 2: must be at least 0 and below 1"),
        ({"micro_batches": 5}, "batch 12 in 5 micro-batches: it must divide"),
        ({"micro_batches": 0}, "micro-batches 0: must be at least 1"),
        ({"declaration": Declaration.parse("w16a16e16g16m32c48t16v4")}, "too coarse for masters"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CompileError, match=said):
        compiled(**{"momentum": 0.9, "weight_decay": 1e-3} | changes)
