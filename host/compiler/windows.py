"""Windows of torch's modules, and what of them no instruction can name."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from insitu.arch.isa import FIELDS
from insitu.arch.window import Window

#: What the instruction's fields can say.
SIDE_MAX, PAD_MAX = FIELDS["map_height"].maximum, FIELDS["pad_height"].maximum
STRIDE_MAX = 1 + FIELDS["stride"].maximum

Pair = tuple[int, int]


def problems(module: nn.Conv2d, side: Pair | None) -> str:
    """Why a convolution over a map of `side` pixels (None: not known) is none that an instruction covers, or ""."""
    found: list[str] = []
    if module.groups != 1 and not depthwise(module):
        found.append(f"groups={module.groups}: 1, or one for each channel in and out")
    if _pair(module.dilation) != (1, 1):
        found.append(f"dilation={module.dilation}: 1")
    stride = _pair(module.stride)
    if stride[0] != stride[1] or stride[0] > STRIDE_MAX:
        found.append(f"stride={module.stride}: 1 or {STRIDE_MAX}, alike both ways")
    if module.padding_mode != "zeros":
        found.append(f"padding_mode={module.padding_mode!r}: 'zeros'")
    pad, kernel = _pad(module), _pair(module.kernel_size)
    if max(pad) > PAD_MAX:
        found.append(f"padding={module.padding}: up to {PAD_MAX}")
    if max(kernel) > SIDE_MAX:
        found.append(f"kernel_size={module.kernel_size}: up to {SIDE_MAX}")
    if found:
        return f"Conv2d of {'; '.join(f'{one} allowed' for one in found)}"
    if side is None:
        return ""
    out = _out(module, side)
    if min(out) < 1:
        return f"Conv2d of {kernel[0]} x {kernel[1]} taps on a map of {side[0]} x {side[1]} pixels: it does not fit"
    return too_large(*side) or too_large(*out)


def depthwise(module: nn.Conv2d) -> bool:
    """Whether each channel goes over its own alone."""
    return module.groups == module.in_channels == module.out_channels and module.groups > 1


def too_large(height: int, width: int) -> str:
    """Why a map is more than an instruction can name, or ""."""
    return f"a map of {height} x {width} pixels: up to {SIDE_MAX} x {SIDE_MAX}" if max(height, width) > SIDE_MAX else ""


def misses(window: Window) -> str:
    """Why a window cannot have a bias, or "": beside a single tap the bias is one more column of that tap, whose update
    leaves out the output pixels that the tap meets nothing with."""
    if window.taps > 1 or bool((window.reads >= 0).all()):
        return ""
    return "Conv2d of one tap with padding and a bias: without padding, or without bias"


def of_convolution(module: nn.Conv2d, height: int, width: int) -> Window:
    """The window of a convolution without problems."""
    (out_height, out_width), (pad_height, pad_width) = _out(module, (height, width)), _pad(module)
    (kernel_height, kernel_width), (stride_height, stride_width) = _pair(module.kernel_size), _pair(module.stride)
    return Window(
        map_height=height,
        map_width=width,
        out_height=out_height,
        out_width=out_width,
        kernel_height=kernel_height,
        kernel_width=kernel_width,
        stride_height=stride_height,
        stride_width=stride_width,
        pad_height=pad_height,
        pad_width=pad_width,
    )


def whole_map(height: int, width: int) -> Window:
    """The window of a Linear over a flattened map: one output pixel that meets all of it."""
    return Window(map_height=height, map_width=width, kernel_height=height, kernel_width=width)


def _options(pool: nn.Module | fx.Node, **defaults: Any) -> dict[str, Any]:
    """What a pool is told, in the order of torch's arguments, as a module or in a call."""
    if isinstance(pool, fx.Node):
        return defaults | pool.kwargs | dict(zip(defaults, pool.args[1:], strict=False))
    return {name: getattr(pool, name) for name in defaults}


def of_pool(pool: nn.Module | fx.Node) -> tuple[Pair | None, bool]:
    """(kernel, ceil_mode) of a MaxPool2d or of a call of max_pool2d; kernel None where it is not one that is covered:
    stride as the kernel, no padding, dilation or indices."""
    given = _options(pool, kernel_size=None, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False)
    kernel, stride = _sizes(given.get("kernel_size")), _sizes(given["stride"] or given.get("kernel_size"))
    plain = _sizes(given["padding"]) == (0, 0) and _sizes(given["dilation"]) == (1, 1) and not given["return_indices"]
    if kernel is None or min(kernel) < 1 or stride != kernel or not plain or not isinstance(given["ceil_mode"], bool):
        return None, False
    return kernel, given["ceil_mode"]


def of_mean(pool: nn.Module | fx.Node, height: int, width: int) -> Window | str:
    """The window of an AvgPool2d, or of a call of avg_pool2d, over a map; or why it is none that is covered."""
    given = _options(
        pool,
        kernel_size=None,
        stride=None,
        padding=0,
        ceil_mode=False,
        count_include_pad=True,
        divisor_override=None,
    )
    kernel, pad = _sizes(given["kernel_size"]), _sizes(given["padding"])
    stride = _sizes(given["stride"] or given["kernel_size"])
    if kernel is None or pad is None or stride is None or given["ceil_mode"] or given["divisor_override"]:
        return "AvgPool2d: without ceil_mode and divisor_override"
    if max(pad) and not given["count_include_pad"]:
        return "AvgPool2d: with padding it counts what is beyond the map too (count_include_pad)"
    sizes = zip((height, width), pad, kernel, stride, strict=True)
    out = tuple((size + 2 * beside - taps) // step + 1 for size, beside, taps, step in sizes)
    if min(out) < 1 or max(height, width, *kernel) > SIDE_MAX or max(pad) > PAD_MAX:
        return f"AvgPool2d of {kernel} pixels on a map of {height} x {width}"
    # Where there is one output pixel each way nothing is stepped over.
    step = max((step for step, count in zip(stride, out, strict=True) if count > 1), default=1)
    if step > STRIDE_MAX or any(count > 1 and other != step for other, count in zip(stride, out, strict=True)):
        return f"AvgPool2d of stride {stride}: 1 to {STRIDE_MAX}, alike both ways"
    return Window(
        map_height=height,
        map_width=width,
        out_height=out[0],
        out_width=out[1],
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        stride_height=step,
        stride_width=step,
        pad_height=pad[0],
        pad_width=pad[1],
    )


def same(height: int, width: int) -> Window:
    """The window of what goes over each pixel alone."""
    return Window(map_height=height, map_width=width, out_height=height, out_width=width)


def side_by_side(kernel: Pair, height: int, width: int, *, ceil: bool) -> Window | None:
    """The window of a pool; None where a map has no window of that size, or is more than an instruction can name."""
    up = [size - 1 if ceil else 0 for size in kernel]
    out = (height + up[0]) // kernel[0], (width + up[1]) // kernel[1]
    if min(out) < 1 or max(height, width, *kernel) > SIDE_MAX:
        return None
    return Window(
        map_height=height,
        map_width=width,
        out_height=out[0],
        out_width=out[1],
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        stride_height=kernel[0],
        stride_width=kernel[1],
    )


def _out(module: nn.Conv2d, side: Pair) -> Pair:
    if module.padding == "same":  # what is beyond the map below and to the right is left out like what is above
        return side
    sizes = zip(side, _pad(module), _pair(module.kernel_size), _pair(module.stride), strict=True)
    height, width = ((size + 2 * pad - kernel) // stride + 1 for size, pad, kernel, stride in sizes)
    return height, width


def _pad(module: nn.Conv2d) -> Pair:
    """Pixels above and to the left."""
    if module.padding == "valid":
        return 0, 0
    if module.padding == "same":
        height, width = (kernel - 1 for kernel in _pair(module.kernel_size))
        return height // 2, width // 2
    return _pair(module.padding)


def _pair(value: Any) -> Pair:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def _sizes(value: Any) -> Pair | None:
    """A pair of integers as torch takes it: one for both, or two."""
    pair = tuple(value) * (2 if len(value) == 1 else 1) if isinstance(value, tuple | list) else (value, value)
    return pair if len(pair) == 2 and all(type(v) is int for v in pair) else None
