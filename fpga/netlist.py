"""Registers into the blocks they stand beside: a pass over an ECP5 netlist, between yosys and nextpnr.

A block RAM has a register behind its read port, a multiplier has registers before, inside and after; yosys uses none of
them. A block RAM's word comes nine times sooner out of that register, and what is in a block needs no wire to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

#: A wire's number, or a constant "0", "1", "x".
Bit = int | str
FLIP_FLOP, BLOCK_RAM, MULTIPLIER = "TRELLIS_FF", "DP16KD", "MULT18X18D"
#: Of a multiplier's registers: clock, enable, reset.
_CONTROLS = ("CLK0", "CE0", "RST0")


class Netlist:
    """A flat module of yosys's JSON, whose cells are changed in place."""

    def __init__(self, module: dict[str, Any]) -> None:
        self.cells: dict[str, Any] = module["cells"]
        #: By the wire that is their output: registers that have neither enable nor reset.
        self._plain: dict[Bit, str] = {}
        #: By the wire that is their input: the same.
        self._after: dict[Bit, str] = {}
        #: Inputs, and ports of the module, that a wire is connected to.
        self._readers: Counter[Bit] = Counter()
        for name, cell in self.cells.items():
            for port, bits in cell["connections"].items():
                if cell["port_directions"][port] == "input":
                    self._readers.update(bits)
            if cell["type"] == FLIP_FLOP and _is_plain(cell):
                self._plain[cell["connections"]["Q"][0]] = name
                self._after[cell["connections"]["DI"][0]] = name
        for port in module["ports"].values():
            self._readers.update(port["bits"])

    def before(self, bits: Iterable[Bit]) -> tuple[list[Bit], Bit] | None:
        """What the registers that drive these bits take, and their clock; None where one of them is no plain register.
        Constants stand for themselves."""
        return self._through(bits, self._plain, "DI", alone=False)

    def after(self, bits: Iterable[Bit]) -> tuple[list[Bit], Bit] | None:
        """What the registers that these bits drive, and nothing else, give; and their clock. What drives nothing stands
        for itself."""
        return self._through([bit for bit in bits if self._readers[bit]], self._after, "Q", alone=True)

    def _through(
        self, bits: Iterable[Bit], registers: dict[Bit, str], port: str, *, alone: bool
    ) -> tuple[list[Bit], Bit] | None:
        out: list[Bit] = []
        clocks = set()
        for bit in bits:
            if isinstance(bit, str):
                out.append(bit)
                continue
            if bit not in registers or (alone and self._readers[bit] != 1):
                return None
            connections = self.cells[registers[bit]]["connections"]
            out.append(connections[port][0])
            clocks.add(connections["CLK"][0])
        return (out, clocks.pop()) if len(clocks) == 1 else None

    def replace(self, cell: Any, ports: Sequence[str], bits: Sequence[Bit]) -> None:
        """Connect a cell's ports with other wires. An output takes the place of the register that drove its wire."""
        for port, bit in zip(ports, bits, strict=True):
            if cell["port_directions"][port] == "input":
                self._readers[cell["connections"][port][0]] -= 1
                self._readers[bit] += 1
            else:
                self._drop(bit)
            cell["connections"][port] = [bit]

    def _drop(self, bit: Bit) -> None:
        """Drop the plain register that drives a wire: no other block may take what it took."""
        if (name := self._plain.pop(bit, None)) is not None:
            taken = self.cells.pop(name)["connections"]["DI"][0]
            self._readers[taken] -= 1
            if self._after.get(taken) == name:
                del self._after[taken]

    def sweep(self) -> None:
        """Drop the registers that drive nothing."""
        while gone := [bit for bit in self._plain if not self._readers[bit]]:
            for bit in gone:
                self._drop(bit)


def _is_plain(cell: Any) -> bool:
    parameters, connections = cell["parameters"], cell["connections"]
    return (
        parameters.get("CEMUX", "CE").strip() == "1"
        and parameters.get("CLKMUX", "CLK") == "CLK"
        and connections.get("LSR", ["0"]) == ["0"]
        and parameters.get("LSRMUX", "LSR") == "LSR"
    )


def pack(module: dict[str, Any]) -> None:
    """Put registers into block RAMs and multipliers, wherever a whole port has plain ones."""
    netlist = Netlist(module)
    for cell in list(netlist.cells.values()):
        if cell["type"] == BLOCK_RAM:
            for port in "AB":
                _pack_output(netlist, cell, port)
        elif cell["type"] == MULTIPLIER:
            _pack_multiplier(netlist, cell)
    netlist.sweep()


def _ports(cell: Any, prefix: str) -> list[str]:
    """Ports of a bus, by number."""
    found = [port for port in cell["connections"] if port.startswith(prefix) and port[len(prefix) :].isdigit()]
    return sorted(found, key=lambda port: int(port[len(prefix) :]))


def _used(netlist: Netlist, cell: Any, prefix: str) -> list[str]:
    return [port for port in _ports(cell, prefix) if netlist._readers[cell["connections"][port][0]]]


def _pack_output(netlist: Netlist, cell: Any, port: str) -> None:
    outputs = _used(netlist, cell, f"DO{port}")
    found = netlist.after(cell["connections"][name][0] for name in outputs)
    if found is None or found[1] != cell["connections"][f"CLK{port}"][0]:
        return
    netlist.replace(cell, outputs, found[0])
    cell["parameters"][f"REGMODE_{port}"] = "OUTREG"
    cell["port_directions"][f"OCE{port}"] = "input"
    cell["connections"][f"OCE{port}"] = ["1"]


def _pack_multiplier(netlist: Netlist, cell: Any) -> None:
    """Both inputs or neither: place and route knows no times of one alone."""
    connections, parameters = cell["connections"], cell["parameters"]
    clocks: set[Bit] = set()

    def clocked(part: str, clock: Bit) -> None:
        parameters[f"REG_{part}_CLK"], parameters[f"REG_{part}_CE"], parameters[f"REG_{part}_RST"] = _CONTROLS
        clocks.add(clock)

    inputs = {side: _ports(cell, side) for side in "AB"}
    taken = {side: netlist.before(connections[name][0] for name in ports) for side, ports in inputs.items()}
    sides = {side: found for side, found in taken.items() if found is not None}
    if len(sides) == 2 and len({clock for _, clock in sides.values()}) == 1:
        for side, found in sides.items():
            netlist.replace(cell, inputs[side], found[0])
            clocked(f"INPUT{side}", found[1])
    outputs = _used(netlist, cell, "P")
    given = netlist.after(connections[name][0] for name in outputs)
    if given is not None and clocks <= {given[1]}:
        further = netlist.after(given[0])
        if further is not None and len(further[0]) == len(outputs) and further[1] == given[1]:
            clocked("PIPELINE", given[1])
            given = further
        netlist.replace(cell, outputs, given[0])
        clocked("OUTPUT", given[1])
    if clocks:
        (clock,) = clocks
        for port, bit in zip(_CONTROLS, (clock, "1", "0"), strict=True):
            cell["port_directions"][port] = "input"
            connections[port] = [bit]
