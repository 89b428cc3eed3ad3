"""The instructions of a plan: its entries, pass by pass."""

from __future__ import annotations

import math
from typing import Any

from insitu.arch.check import WIDTH_ROLE
from insitu.arch.declaration import Declaration, ExponentPolicy, Role
from insitu.arch.isa import CONSTANT_MAX, KERNEL_FIELDS, MAP_FIELDS, Instruction, Opcode
from insitu.arch.layout import Memory
from insitu.arch.program import Tensor
from insitu.arch.window import Window
from insitu.host.compiler.graph import SAMPLE, Layer
from insitu.host.compiler.lower import TARGET, activation, masters, named, velocity
from insitu.host.compiler.passes import Pass
from insitu.host.compiler.plan import Plan
from insitu.host.compiler.rate import Rates
from insitu.host.compiler.tables import Placed
from insitu.host.compiler.weights import Start

#: Passes that move elements as they are.
_MOVES = (Opcode.POOL, Opcode.UNPOOL, Opcode.LOOKUP)


def entries(plan: Plan, start: Start, rates: Rates) -> dict[str, list[Instruction]]:
    """The instructions of each entry but for its HALT."""
    return _Emitter(plan, start, rates).entries()


def tables(start: Start) -> dict[str, Placed]:
    """What the entry `load_tables` loads, by tensor, in its order."""
    return {table.name: table for table in start.tables.values()}


class _Emitter:
    def __init__(self, plan: Plan, start: Start, rates: Rates) -> None:
        self.plan, self.start, self.rates = plan, start, rates

    def entries(self) -> dict[str, list[Instruction]]:
        plan, passes = self.plan, self.plan.passes
        sample, target = self._load(SAMPLE), self._load(TARGET)
        logits = self._store(activation(plan.graph.nodes[-1].name))
        forward, backward = self._all(passes.forward), self._all(passes.backward)
        weights = [masters(layer.name) for layer in plan.graph.layers]
        found = {
            "infer": [sample, *self._all(passes.forward, train=False), logits],
            "train": [sample, target, *forward, logits, self._pass(passes.loss), *backward],
            "train_host": [sample, *forward, logits, self._load(passes.loss.d), *backward],
            "load_weights": [self._load(w) for w in weights],
            "store_weights": [self._store(w) for w in weights],
        }
        if velocities := [name for name, tensor in plan.tensors.items() if tensor.role is Role.MOMENTUM]:
            found["load_velocities"] = [self._load(v) for v in velocities]
            found["store_velocities"] = [self._store(v) for v in velocities]
        looked_up = [self._load_table(table) for table in tables(self.start).values()]
        return found | ({"load_tables": looked_up} if looked_up else {})

    # Streams.

    def _load(self, name: str) -> Instruction:
        return Instruction(opcode=Opcode.LOAD, **self._streamed(name, "d"))

    def _store(self, name: str) -> Instruction:
        return Instruction(opcode=Opcode.STORE, **self._streamed(name, "a"))

    def _load_table(self, table: Placed) -> Instruction:
        matrix = table.matrix(self.plan.core.n)
        return Instruction(
            opcode=Opcode.LOAD,
            memory=matrix.memory,
            rows=matrix.rows,
            cols=matrix.cols,
            d_base=matrix.base,
            d_pitch=matrix.pitch,
        )

    def _streamed(self, name: str, operand: str) -> dict[str, Any]:
        tensor = self.plan.tensors[name]
        matrix = tensor.matrix
        pixels = self._pixels(name, tensor)
        return {
            "memory": matrix.memory,
            f"{operand}_base": matrix.base,
            f"{operand}_pitch": matrix.pitch,
            "rows": matrix.rows // (pixels.map_height * pixels.map_width),
            "cols": matrix.cols + matrix.tail,
            "bias": matrix.tail,
            **named(pixels, *MAP_FIELDS, *KERNEL_FIELDS),
        }

    def _pixels(self, name: str, tensor: Tensor) -> Window:
        """What a stream is told of a tensor's rows, a map's pixels, and of its columns, a kernel's taps."""
        if tensor.samples is not None:
            out = tensor.samples.window
            return Window(map_height=out.out_height, map_width=out.out_width)
        for node in self.plan.graph.layers:
            if name in (masters(node.name), velocity(node.name)) and not node.depthwise:
                return Window(kernel_height=node.window.kernel_height, kernel_width=node.window.kernel_width)
        return Window()

    # Passes.

    def _all(self, passes: list[Pass], *, train: bool = True) -> list[Instruction]:
        return [self._pass(each, train=train) for each in passes]

    def _pass(self, p: Pass, *, train: bool = True) -> Instruction:
        fields = dict(p.fields)
        for operand in "abdm":
            if name := getattr(p, operand):
                fields |= self._at(operand, name, scaled=p.opcode not in _MOVES)
        if p.formats is not None:
            fields |= self._narrowing(p, p.formats, train=train)
            if p.b and self.plan.tensors[p.b].matrix.memory is Memory.WGT:
                fields |= _reading(self.plan.declaration.at(p.node.name))
        if p.constant:
            fields |= self._constant(p)
        if p.table:
            slope = p.opcode is Opcode.MULTIPLY
            fields |= self.start.tables[p.table, "slope" if slope else "table"].fields
            if slope:
                fields["sb"] = self.plan.slopes[p.table]
        if isinstance(p.node, Layer) and fields.get("bias"):
            fields["bias_exponent"] = self.start.bias_exponents[p.node.name]
        if p.gradient:
            fields |= self._updating(p)
        return Instruction(opcode=p.opcode, **fields)

    def _at(self, operand: str, name: str, *, scaled: bool) -> dict[str, Any]:
        """An operand's place, and its scale register."""
        tensor = self.plan.tensors[name]
        fields = {f"{operand}_base": tensor.matrix.base, f"{operand}_pitch": tensor.matrix.pitch}
        return fields | ({f"s{operand}": tensor.scale} if scaled and operand != "m" else {})

    def _narrowing(self, p: Pass, formats: Declaration, *, train: bool) -> dict[str, Any]:
        fmt = formats.role(WIDTH_ROLE[self.plan.tensors[p.d].matrix.memory])
        train = train and not self.plan.passes.tensors[p.d].fixed
        return {
            "width": fmt.width,
            "rounding": fmt.rounding,
            "overflow": fmt.overflow,
            "track": int(train and fmt.exponent is ExponentPolicy.DELAYED),
            "exact": int(train and fmt.exponent is ExponentPolicy.EXACT),
        }

    def _constant(self, p: Pass) -> dict[str, Any]:
        """A constant as an integer and its exponent: as many bits as leave its sums room in the accumulator."""
        core, taps = self.plan.core, p.node.window.taps
        room = core.accumulator_bits - 1 - self.plan.tensors[p.a].width - taps.bit_length()
        bits = max(1, min(CONSTANT_MAX.bit_length() - 1, room))
        mantissa, exponent = math.frexp(p.constant)
        m, e = round(math.ldexp(mantissa, bits)), exponent - bits
        while m % 2 == 0:
            m, e = m // 2, e + 1
        return {"constant": m, "bias_exponent": e}

    def _updating(self, p: Pass) -> dict[str, Any]:
        assert p.formats is not None
        m, k = self.rates.gradient
        return {
            "lr_mul": m,
            "lr_shift": k,
            "sm": self.plan.tensors[p.d].scale,
            "sd": self.plan.gradients[p.gradient],
            "master_width": p.formats.master.width,
            "update_rounding": p.formats.master.rounding,
            **({} if self.plan.optimizer.plain else self._momentum(p.formats, p.gradient)),
        }

    def _momentum(self, formats: Declaration, layer: str) -> dict[str, Any]:
        m, k = self.rates.decay
        return {
            "momentum_width": formats.momentum.width,
            "momentum_mul": self.rates.momentum,
            "momentum_rounding": formats.momentum.rounding,
            "velocity_fraction": self.start.fractions[layer],
            "decay_mul": m,
            "decay_shift": k,
        }


def _reading(formats: Declaration) -> dict[str, Any]:
    return {
        "weight_width": formats.weight.width,
        "weight_shift": formats.master.width - formats.weight.width,
        "weight_rounding": formats.weight.rounding,
    }
