"""What a program starts from: exponents of all tensors, operands of biases, masters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from insitu.arch.declaration import ExponentPolicy, RoleFormat
from insitu.arch.isa import FIELDS
from insitu.arch.numbers import FixedFormat, bias_operand, clamp
from insitu.host.compiler.calibrate import Ranges
from insitu.host.compiler.plan import SAMPLE, TARGET, LayerTensors, Plan

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
    tensor name -> int32 [outputs, taps * inputs (+ 1 for the bias)].
    """

    def __init__(self, plan: Plan, ranges: Ranges) -> None:
        self._plan = plan
        self.scales = [0] * plan.scales
        self.bias_exponents: dict[str, int] = {}
        self.masters: Masters = {}
        self._calibrate(SAMPLE, ranges.sample, headroom=0)
        # A target of 1 saturates by one step rather than halving the resolution of all others.
        self._calibrate(TARGET, 1.0, headroom=0)
        for t in plan.layers:
            name = t.node.name
            self._calibrate(t.y, ranges.activation[name], headroom=_headroom(t.formats.activation))
            self._calibrate(t.error, ranges.error[name], headroom=_headroom(t.formats.error))
        for t in plan.layers:
            operand = self._bias_operand(t) if t.node.bias else 0.0
            fmt, seen = t.formats.gradient, (ranges.gradient[name := t.node.name], operand * ranges.bias[name])
            self.scales[t.gradient_scale] = FixedFormat.covering(
                max(seen), width=fmt.width, headroom=_headroom(fmt)
            ).exponent
            self._weights(t, operand)

    def _calibrate(self, tensor: str, magnitude: float, *, headroom: int) -> None:
        t = self._plan.tensors[tensor]
        self.scales[t.scale] = FixedFormat.covering(magnitude, width=t.width, headroom=headroom).exponent

    def _weights(self, t: LayerTensors, operand: float) -> None:
        """Masters with the bias in units of its operand."""
        layer, tensor = t.node, self._plan.tensors[t.weight]
        weight = layer.weights()
        if layer.bias:
            weight = np.column_stack([weight, layer.biases() / operand])
        fmt = FixedFormat.covering(float(np.abs(weight).max()), width=tensor.width, headroom=WEIGHT_HEADROOM)
        self.scales[tensor.scale] = fmt.exponent
        self.masters[t.weight] = fmt.quantise(weight).astype(np.int32)

    def _bias_operand(self, t: LayerTensors) -> float:
        """Choose the layer's bias operand; its real value beside activations of the exponent they start from.

        1.0 where the activation format holds it with one step to spare, so that a moving exponent does not move the
        bias; else 0.5, which the device brings to the nearest power of two that the format holds.
        """
        exponent, bits = self.scales[self._plan.tensors[t.x].scale], self._plan.core.activation_bits
        wanted = max(exponent, clamp(exponent + BIAS_SHIFT_MARGIN + bits, -1, 0))
        field = FIELDS["bias_exponent"]
        self.bias_exponents[t.node.name] = clamp(wanted, field.minimum, field.maximum)
        return float(bias_operand(self.bias_exponents[t.node.name], exponent, bits) * 2.0**exponent)


def _headroom(fmt: RoleFormat) -> int:
    return STATIC_HEADROOM if fmt.exponent is ExponentPolicy.STATIC else 0
