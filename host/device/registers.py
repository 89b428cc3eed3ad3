"""Registers by name over a device's offsets, with a readable repr."""

from __future__ import annotations

import numpy as np

from insitu.arch.registers import REGISTERS, Access
from insitu.host.device.protocol import Device
from insitu.host.errors import DeviceError


class Registers:
    """`registers["STATUS"]`, `registers["SCALE", 3]`; `registers.field("STATUS", "busy")`; pairs as one: `counter`."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def _offset(self, key: str | tuple[str, int]) -> tuple[str, int]:
        name, index = key if isinstance(key, tuple) else (key, 0)
        register = REGISTERS.get(name)
        if register is None:
            raise DeviceError(f"no register {name!r}: there are {', '.join(REGISTERS)}")
        if not isinstance(index, int | np.integer) or not 0 <= index < register.count:
            raise DeviceError(f"register {name}[{index}]: there are {register.count}")
        return name, register.offset + 4 * index

    def __getitem__(self, key: str | tuple[str, int]) -> int:
        return self._device.read(self._offset(key)[1])

    def __setitem__(self, key: str | tuple[str, int], value: int) -> None:
        name, offset = self._offset(key)
        if REGISTERS[name].access is Access.RO:
            raise DeviceError(f"register {name} is read only")
        if not isinstance(value, int | np.integer) or not 0 <= value < 1 << 32:
            raise DeviceError(f"{name} = {value!r}: a register holds 32 bits, an integer from 0")
        self._device.write(offset, int(value))

    def field(self, name: str, field: str) -> int:
        """One bit field of a register."""
        return REGISTERS[name].fields[field].of(self[name])

    def command(self, field: str) -> None:
        """Write a command bit of CONTROL."""
        self["CONTROL"] = REGISTERS["CONTROL"].fields[field].put(1)

    def counter(self, name: str) -> int:
        """A 64-bit counter from its _LO and _HI halves, whole though it may be counting.

        The low half is read between two reads of the high one; where those differ it has just wrapped, and a second
        reading cannot meet another wrap.
        """
        high, low = self[f"{name}_HI"], self[f"{name}_LO"]
        again = self[f"{name}_HI"]
        if again != high:
            low = self[f"{name}_LO"]
        return again << 32 | low

    def __repr__(self) -> str:
        lines = []
        for name, register in REGISTERS.items():
            if register.count > 1 or register.access is Access.WO:
                continue
            value = self[name]
            parts = ", ".join(f"{f}={spec.of(value)}" for f, spec in register.fields.items())
            lines.append(f"{name:<13} {value:#010x}  {parts or register.doc}")
        return "\n".join(lines)
