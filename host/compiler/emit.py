"""The instructions of a plan: its entries, pass by pass."""

from __future__ import annotations

from typing import Any

from insitu.arch.check import WIDTH_ROLE
from insitu.arch.declaration import Declaration, ExponentPolicy
from insitu.arch.isa import Instruction, Opcode
from insitu.arch.program import Tensor
from insitu.arch.window import Window
from insitu.host.compiler.plan import SAMPLE, TARGET, LayerTensors, Plan, PoolTensors
from insitu.host.compiler.weights import Start

_MAP = ("map_height", "map_width")
_KERNEL = ("kernel_height", "kernel_width")
_EXTENTS = (*_MAP, "out_height", "out_width", *_KERNEL)


def entries(plan: Plan, start: Start, lr: tuple[int, int]) -> dict[str, list[Instruction]]:
    """The instructions of each entry but for its HALT. lr: (m, k) of the rate m * 2**-k of a sample."""
    return _Emitter(plan, start, lr).entries()


class _Emitter:
    def __init__(self, plan: Plan, start: Start, lr: tuple[int, int]) -> None:
        self.plan, self.start, self.lr = plan, start, lr

    def entries(self) -> dict[str, list[Instruction]]:
        plan = self.plan
        sample, target = self._load(SAMPLE), self._load(TARGET)
        last = plan.nodes[-1]
        logits = self._store(last.y)
        forward, backward = self._forward(train=True), self._backward()
        weights = [t.weight for t in plan.layers]
        return {
            "infer": [sample, *self._forward(train=False), logits],
            "train": [sample, target, *forward, logits, self._loss(), *backward],
            "train_host": [sample, *forward, logits, self._load(last.error), *backward],
            "load_weights": [self._load(w) for w in weights],
            "store_weights": [self._store(w) for w in weights],
        }

    # Operands and fields.

    def _at(self, **operands: str) -> dict[str, Any]:
        """a="fc1.y" -> a_base, a_pitch and sa."""
        fields: dict[str, Any] = {}
        for operand, name in operands.items():
            tensor = self.plan.tensors[name]
            fields |= {f"{operand}_base": tensor.matrix.base, f"{operand}_pitch": tensor.matrix.pitch}
            if operand != "m":
                fields[f"s{operand}"] = tensor.scale
        return fields

    def _moved(self, **operands: str) -> dict[str, Any]:
        """The same where elements are moved as they are: no scale registers."""
        return {k: v for k, v in self._at(**operands).items() if k[0] != "s"}

    def _narrowing(self, opcode: Opcode, formats: Declaration, *, train: bool = True) -> dict[str, Any]:
        fmt = formats.role(WIDTH_ROLE[opcode])
        return {
            "width": fmt.width,
            "rounding": fmt.rounding,
            "overflow": fmt.overflow,
            "track": int(train and fmt.exponent is ExponentPolicy.DELAYED),
            "exact": int(train and fmt.exponent is ExponentPolicy.EXACT),
        }

    def _reading(self, formats: Declaration) -> dict[str, Any]:
        return {
            "weight_width": formats.weight.width,
            "weight_shift": formats.master.width - formats.weight.width,
            "weight_rounding": formats.weight.rounding,
        }

    # Streams.

    def _load(self, name: str) -> Instruction:
        return Instruction(opcode=Opcode.LOAD, **self._streamed(name, "d"))

    def _store(self, name: str) -> Instruction:
        return Instruction(opcode=Opcode.STORE, **self._streamed(name, "a"))

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
            **_named(pixels, *_MAP, *_KERNEL),
        }

    def _pixels(self, name: str, tensor: Tensor) -> Window:
        """What a stream is told of a tensor's rows, a map's pixels, and of its columns, a kernel's taps."""
        if tensor.samples is not None:
            out = tensor.samples.window
            return Window(map_height=out.out_height, map_width=out.out_width)
        for t in self.plan.nodes:
            if isinstance(t, LayerTensors) and t.weight == name:
                return Window(kernel_height=t.node.window.kernel_height, kernel_width=t.node.window.kernel_width)
        return Window()

    # Passes.

    def _forward(self, *, train: bool) -> list[Instruction]:
        return [self._pool(t) if isinstance(t, PoolTensors) else self._product(t, train=train) for t in self.plan.nodes]

    def _product(self, t: LayerTensors, *, train: bool) -> Instruction:
        return Instruction(
            opcode=Opcode.FORWARD,
            rows=self.plan.batch,
            cols=t.node.outputs,
            depth=t.node.inputs + t.node.bias,
            relu=int(t.node.relu),
            **self._bias(t),
            **_window(t.node.window),
            **self._at(a=t.x, b=t.weight, d=t.y),
            **self._reading(t.formats),
            **self._narrowing(Opcode.FORWARD, t.formats, train=train),
        )

    def _pool(self, t: PoolTensors) -> Instruction:
        return Instruction(
            opcode=Opcode.POOL,
            rows=self.plan.batch,
            cols=t.node.outputs,
            **_named(t.node.window, *_EXTENTS),
            **self._moved(a=t.x, d=t.y),
        )

    def _loss(self) -> Instruction:
        last = self.plan.nodes[-1]
        return Instruction(
            opcode=Opcode.LOSS,
            rows=self.plan.batch,
            cols=last.node.outputs,
            **self._at(a=last.y, b=TARGET, d=last.error),
            **self._narrowing(Opcode.LOSS, last.formats),
        )

    def _backward(self) -> list[Instruction]:
        """From the last node's error to every update; an error goes back through a weight before it changes."""
        words: list[Instruction] = []
        nodes = self.plan.nodes
        for index in reversed(range(len(nodes))):
            t, below = nodes[index], nodes[index - 1] if index else None
            if below is not None and below.error:
                words.append(self._unpool(t, below) if isinstance(t, PoolTensors) else self._back(t, below))
            if isinstance(t, LayerTensors):
                words.append(self._update(t))
        return words

    def _back(self, t: LayerTensors, below: LayerTensors | PoolTensors) -> Instruction:
        return Instruction(
            opcode=Opcode.BACKWARD,
            rows=self.plan.batch,
            cols=t.node.inputs,
            depth=t.node.outputs,
            mask=int(below.node.relu),
            **_window(t.node.window),
            **self._at(a=t.error, b=t.weight, d=below.error, **({"m": t.x} if below.node.relu else {})),
            **self._reading(t.formats),
            **self._narrowing(Opcode.BACKWARD, below.formats),
        )

    def _unpool(self, t: PoolTensors, below: LayerTensors | PoolTensors) -> Instruction:
        return Instruction(
            opcode=Opcode.UNPOOL,
            rows=self.plan.batch,
            cols=t.node.outputs,
            mask=int(below.node.relu),
            **_named(t.node.window, *_EXTENTS),
            **self._moved(a=t.error, b=t.x, d=below.error),
        )

    def _update(self, t: LayerTensors) -> Instruction:
        m, k = self.lr
        at = self._at(a=t.error, b=t.x, d=t.weight)
        at["sm"], at["sd"] = at["sd"], t.gradient_scale
        return Instruction(
            opcode=Opcode.UPDATE,
            rows=t.node.outputs,
            cols=t.node.inputs + t.node.bias,
            depth=self.plan.batch,
            lr_mul=m,
            lr_shift=k,
            master_width=t.formats.master.width,
            update_rounding=t.formats.master.rounding,
            **self._bias(t),
            **_window(t.node.window),
            **at,
            **self._narrowing(Opcode.UPDATE, t.formats),
        )

    def _bias(self, t: LayerTensors) -> dict[str, Any]:
        return {"bias": int(t.node.bias), "bias_exponent": self.start.bias_exponents.get(t.node.name, 0)}


def _named(window: Window, *extents: str) -> dict[str, Any]:
    """Extents as fields, where 0 stands for 1."""
    return {name: value if (value := getattr(window, name)) > 1 else 0 for name in extents}


def _window(window: Window) -> dict[str, Any]:
    """The fields of a product's window."""
    return {
        **_named(window, *_EXTENTS),
        "stride": window.stride_height - 1,
        "pad_height": window.pad_height,
        "pad_width": window.pad_width,
    }
