"""What a program starts from: exponents of all tensors, operands of biases, masters, tables."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from insitu.arch.declaration import WIDTHS, ExponentPolicy, Role, RoleFormat
from insitu.arch.isa import FIELDS, FRACTIONS
from insitu.arch.layout import Memory
from insitu.arch.numbers import FixedFormat, bias_operand, clamp
from insitu.host.compiler import tables
from insitu.host.compiler.calibrate import Ranges
from insitu.host.compiler.graph import SAMPLE, Layer
from insitu.host.compiler.lower import TARGET, activation, given, masters, velocity
from insitu.host.compiler.passes import Wanted
from insitu.host.compiler.plan import Plan
from insitu.host.errors import CompileError

Masters = dict[str, npt.NDArray[np.int32]]

#: Bits above what calibration saw, where an exponent stays as calibrated.
STATIC_HEADROOM = 1
#: The largest operand is 2**(activation bits - 2); one step is kept to spare.
BIAS_SHIFT_MARGIN = -3
#: Bits above the largest initial weight: weights grow as they train, and their exponent cannot follow.
WEIGHT_HEADROOM = 2


class Start:
    """Where a plan's program starts.

    scales: exponents of the scale registers. bias_exponents: layer -> exponent of its bias operand. masters: weight
    tensor name -> int32 [rows, columns] as they lie in memory. fractions: layer -> bits of its velocities below its
    masters' last place. tables: (node, "table" or "slope") -> what it looks up.
    """

    def __init__(self, plan: Plan, ranges: Ranges, learning_rate: float) -> None:
        self._plan = plan
        self.scales = [0] * plan.scales
        self.bias_exponents: dict[str, int] = {}
        self.masters: Masters = {}
        self.fractions: dict[str, int] = {}
        for name, wanted in plan.passes.tensors.items():
            if wanted.seen and not wanted.scale_of:
                self._calibrate(name, wanted, ranges)
        for layer in plan.graph.layers:
            operand = self._bias_operand(layer) if layer.bias else 0.0
            self._weights(layer, operand)
            if layer.name in plan.gradients:
                fmt = plan.declaration.at(layer.name).gradient
                seen = max(ranges.gradient[layer.name], operand * ranges.bias[layer.name])
                found = FixedFormat.covering(seen, width=fmt.width, headroom=_headroom(fmt))
                self.scales[plan.gradients[layer.name]] = found.exponent
                if not plan.optimizer.plain:
                    self.fractions[layer.name] = self._fraction(layer, seen, learning_rate)
        self.tables = self._tables()
        self.scales = plan.share(self.scales)

    def _calibrate(self, name: str, wanted: Wanted, ranges: Ranges) -> None:
        assert wanted.seen is not None
        kind, key = wanted.seen
        # A target of 1 saturates by one step rather than halving the resolution of all others.
        magnitude = {SAMPLE: ranges.sample, TARGET: 1.0}.get(kind)
        fmt = wanted.formats.role(wanted.role)
        headroom = 0
        if magnitude is None:
            magnitude = getattr(ranges, kind)[key]
            headroom = STATIC_HEADROOM if wanted.fixed else _headroom(fmt)
        assert magnitude is not None
        found = FixedFormat.covering(magnitude, width=fmt.width, headroom=headroom)
        self.scales[self._plan.register(name)] = found.exponent

    def _fraction(self, layer: Layer, seen: float, learning_rate: float) -> int:
        """Bits of a layer's velocities below its masters' last place: as many as leave room for the largest gradient,
        and the decay of the largest master, step after step, with one bit to spare. Raises CompileError where even the
        coarsest velocity has too little."""
        tensor, optimizer = self._plan.tensors[velocity(layer.name)], self._plan.optimizer
        largest = float(np.abs(self._format(masters(layer.name)).real(self.masters[masters(layer.name)])).max())
        most = learning_rate * (seen / self._plan.batch + optimizer.weight_decay * largest) / (1 - optimizer.momentum)
        if most == 0:
            return 0
        (least, highest), exponent = FRACTIONS, self.scales[tensor.scale]
        fmt = FixedFormat.covering(most, width=tensor.width, headroom=STATIC_HEADROOM)
        found = exponent - fmt.exponent
        if found < least:
            bits = tensor.width + least - found
            remedy = f"declare {bits} bits" if bits <= WIDTHS[Role.MOMENTUM][1] else "declare fewer bits of master"
            raise CompileError(
                f"layer {layer.name!r}: velocities of up to {most:.3g} in {tensor.width} bits are too coarse for "
                f"masters whose last place is 2**{exponent}: {remedy}"
            )
        return min(found, highest)

    def _format(self, tensor: str) -> FixedFormat:
        t = self._plan.tensors[tensor]
        return FixedFormat(width=t.width, exponent=self.scales[t.scale])

    def _weights(self, layer: Layer, operand: float) -> None:
        """Masters with the bias in units of its operand."""
        name = masters(layer.name)
        tensor, weight = self._plan.tensors[name], layer.masters(operand)
        headroom = weight_headroom(self._plan.declaration.at(layer.name).weight.width)
        fmt = FixedFormat.covering(float(np.abs(weight).max()), width=tensor.width, headroom=headroom)
        self.scales[tensor.scale] = fmt.exponent
        self.masters[name] = fmt.quantise(weight).astype(np.int32)

    def _bias_operand(self, layer: Layer) -> float:
        """Choose the layer's bias operand; its real value beside activations of the exponent they start from.

        1.0 where the activation format holds it with one step to spare, so that a moving exponent does not move the
        bias; else 0.5, which the device brings to the nearest power of two that the format holds.
        """
        exponent, bits = self._format(given(layer.sources[0])).exponent, self._plan.core.activation_bits
        wanted = max(exponent, clamp(exponent + BIAS_SHIFT_MARGIN + bits, -1, 0))
        field = FIELDS["bias_exponent"]
        self.bias_exponents[layer.name] = clamp(wanted, field.minimum, field.maximum)
        return float(bias_operand(self.bias_exponents[layer.name], exponent, bits) * 2.0**exponent)

    def _tables(self) -> dict[tuple[str, str], tables.Placed]:
        plan = self._plan
        lookups = []
        for node in plan.passes.tables:
            source = plan.passes.tensors[activation(node.sources[0])]
            x, y = self._format(source.name), self._format(activation(node.name))
            slope = tables.slope_format(node, x, plan.core.word_bits(Memory.TAB))
            if node.name in plan.slopes:
                self.scales[plan.slopes[node.name]] = slope.exponent
            lookups.append(tables.Lookup(node=node, x=x, y=y, slope=slope))
        return tables.placed(lookups, plan.core)


def _headroom(fmt: RoleFormat) -> int:
    return STATIC_HEADROOM if fmt.exponent is ExponentPolicy.STATIC else 0


def weight_headroom(width: int) -> int:
    """Bits above the largest initial weight of a weight's width: two where as many are left below, or all would be
    read as zero and nothing learn (digits, weights of 2 bits: 10 % with two, 91 % with none)."""
    return clamp(width - 2, 0, WEIGHT_HEADROOM)
