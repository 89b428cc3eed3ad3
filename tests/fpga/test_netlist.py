"""Registers packed into block RAMs and multipliers: which are, which must not be, and what is connected then."""

from __future__ import annotations

from typing import Any

import pytest

from insitu.fpga.netlist import BLOCK_RAM, FLIP_FLOP, MULTIPLIER, pack

CLOCK, OTHER_CLOCK, ENABLE, RESET = 1, 2, 3, 4


def cell(kind: str, inputs: dict[str, Any], outputs: dict[str, Any], **parameters: str) -> dict[str, Any]:
    return {
        "type": kind,
        "parameters": parameters,
        "port_directions": {**dict.fromkeys(inputs, "input"), **dict.fromkeys(outputs, "output")},
        "connections": {port: [bit] for port, bit in {**inputs, **outputs}.items()},
    }


def register(d: Any, q: int, *, clock: int = CLOCK, enable: bool = False, reset: bool = False) -> dict[str, Any]:
    """A flip-flop as yosys writes it: a string of digits alone ends with a space."""
    inputs = {"CLK": clock, "DI": d, "LSR": RESET if reset else "0"} | ({"CE": ENABLE} if enable else {})
    return cell(FLIP_FLOP, inputs, {"Q": q}, CEMUX="CE" if enable else "1 ", CLKMUX="CLK", LSRMUX="LSR")


def packed(*cells: dict[str, Any], seen: tuple[int, ...] = ()) -> dict[str, Any]:
    """The cells by number, after packing; `seen` are ports of the module."""
    module = {"cells": {str(k): c for k, c in enumerate(cells)}, "ports": {"o": {"bits": list(seen)}}}
    pack(module)
    return module["cells"]


def ram(*outputs: int) -> dict[str, Any]:
    return cell(BLOCK_RAM, {"CLKB": CLOCK, "ADB0": 10}, {f"DOB{k}": bit for k, bit in enumerate(outputs)})


def test_a_block_rams_word_takes_its_register() -> None:
    cells = packed(ram(20, 21, 22), register(20, 30), register(21, 31), seen=(30, 31))
    assert list(cells) == ["0"]
    assert cells["0"]["parameters"]["REGMODE_B"] == "OUTREG"
    assert [cells["0"]["connections"][port] for port in ("DOB0", "DOB1", "OCEB")] == [[30], [31], ["1"]]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"enable": True},
        {"reset": True},
        {"clock": OTHER_CLOCK},
    ],
)
def test_other_registers_stay(spoilt: dict[str, Any]) -> None:
    cells = packed(ram(20, 21), register(20, 30), register(21, 31, **spoilt), seen=(30, 31))
    assert len(cells) == 3
    assert "REGMODE_B" not in cells["0"]["parameters"]
    assert cells["0"]["connections"]["DOB0"] == [20]


def test_a_word_that_something_else_reads_keeps_its_register() -> None:
    assert len(packed(ram(20), register(20, 30), seen=(20, 30))) == 2
    assert len(packed(ram(20), register(20, 30), register(20, 31), seen=(30, 31))) == 3


def multiplier() -> dict[str, Any]:
    """Two bits by two, the sign of A drawn out, B's upper bit constant."""
    return cell(MULTIPLIER, {"A0": 10, "A1": 11, "A2": 11, "B0": 12, "B1": "0"}, {"P0": 20, "P1": 21, "P2": 22})


FACTORS = (register(5, 10), register(6, 11), register(7, 12))


def test_a_multiplier_takes_all_its_registers() -> None:
    """Two behind it: one inside, one at its end."""
    raw, product = (register(20, 30), register(21, 31)), (register(30, 40), register(31, 41))
    cells = packed(multiplier(), *FACTORS, *raw, *product, seen=(40, 41))
    assert list(cells) == ["0"]
    parameters, connections = cells["0"]["parameters"], cells["0"]["connections"]
    parts = ("INPUTA", "INPUTB", "PIPELINE", "OUTPUT")
    assert {parameters[f"REG_{part}_CLK"] for part in parts} == {"CLK0"}
    assert {port: connections[port] for port in ("A0", "A1", "A2", "B0", "B1", "P0", "P1", "CLK0", "CE0", "RST0")} == {
        "A0": [5],
        "A1": [6],
        "A2": [6],
        "B0": [7],
        "B1": ["0"],
        "P0": [40],
        "P1": [41],
        "CLK0": [CLOCK],
        "CE0": ["1"],
        "RST0": ["0"],
    }


def test_a_factor_that_something_else_reads_is_registered_twice() -> None:
    cells = packed(multiplier(), *FACTORS, seen=(10, 20, 21))
    assert cells["0"]["parameters"]["REG_INPUTA_CLK"] == "CLK0"
    assert [c["connections"]["Q"] for c in cells.values() if c["type"] == FLIP_FLOP] == [[10]]


def test_a_multiplier_with_one_registered_factor_keeps_it_outside() -> None:
    cells = packed(multiplier(), *FACTORS[:2], register(20, 30), register(21, 31), seen=(30, 31))
    assert "REG_INPUTA_CLK" not in cells["0"]["parameters"]
    assert cells["0"]["parameters"]["REG_OUTPUT_CLK"] == "CLK0"
    assert "REG_PIPELINE_CLK" not in cells["0"]["parameters"]
    assert len(cells) == 3


def test_a_register_between_two_blocks_goes_into_the_first() -> None:
    """In either order of the cells, and every wire that is read has a driver."""
    first = {"P0": 12}
    for turned in (False, True):
        blocks = [
            cell(MULTIPLIER, {"A0": 8, "B0": 9}, dict(first)),
            cell(MULTIPLIER, {"A0": 13, "B0": 14}, {"P0": 15}),
        ]
        if turned:
            blocks.reverse()
        cells = packed(*blocks, register(12, 13), register(5, 14), seen=(15,))
        driven = {5, 8, 9, CLOCK}
        read = set()
        for c in cells.values():
            for port, bits in c["connections"].items():
                (driven if c["port_directions"][port] == "output" else read).update(bits)
        assert {bit for bit in read if isinstance(bit, int)} <= driven
        assert sum(c["type"] == FLIP_FLOP for c in cells.values()) < 2


def test_a_block_rams_register_is_not_a_multipliers_too() -> None:
    cells = packed(
        ram(20), cell(MULTIPLIER, {"A0": 30, "B0": 31}, {"P0": 40}), register(20, 30), register(6, 31), seen=(40,)
    )
    assert cells["0"]["connections"]["DOB0"] == cells["1"]["connections"]["A0"] == [30]
    assert cells["0"]["parameters"]["REGMODE_B"] == "OUTREG"
