"""Opening a device by its backend's name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from insitu.arch.params import CoreParams
from insitu.host.device.driver import Driver
from insitu.host.device.protocol import Device
from insitu.host.errors import DeviceError

#: Backends by name: "module:class", imported when first opened, so that none needs the others' libraries. Each class
#: takes a CoreParams and its own keyword arguments.
BACKENDS: dict[str, str] = {
    "emulator": "insitu.host.device.emulated:EmulatedDevice",
    "rtl": "insitu.host.device.rtl:RtlDevice",
    "pysim": "insitu.host.device.pysim:PysimDevice",
    "pynq": "insitu.host.device.pynq:PynqDevice",
}


def open_device(core: CoreParams, backend: str = "emulator", **options: Any) -> Driver:
    """Open a device: `with open_device(core) as device: ...`. Raises DeviceError for an unknown backend and
    DeviceMismatch where what answers is not this core."""
    if backend not in BACKENDS:
        raise DeviceError(f"backend {backend!r}: there are {', '.join(BACKENDS)}")
    module, _, name = BACKENDS[backend].partition(":")
    try:
        backend_class: Callable[..., Device] = getattr(importlib.import_module(module), name)
        device = backend_class(core, **options)
    except ModuleNotFoundError as error:
        raise DeviceError(f"backend {backend!r} needs {error.name}, which is not installed") from error
    try:
        return Driver(device)
    except BaseException:
        device.close()
        raise
