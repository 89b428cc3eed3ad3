"""Sites of a core's blocks: one each, a bank's side by side, none where they do not fit."""

from __future__ import annotations

import re
from typing import Any

import pytest

from insitu.fpga.floorplan import COLUMNS, RAM_ROWS, multiplier, place, ram
from insitu.fpga.netlist import BLOCK_RAM, MULTIPLIER


def blocks(banks: int, each: dict[str, int], others: int, *, lanes: int = 0) -> dict[str, Any]:
    """Cells as yosys names them: `each` block RAMs of a memory in every bank, and an array of `lanes` a side."""
    names = [
        f"shell.core.datapath.{memory}.bank_{bank}_{page}.0.0"
        for bank in range(banks)
        for memory, count in each.items()
        for page in range(count)
    ] + [f"shell.core.sequencer.program.0.{k}" for k in range(others)]
    cells = {name: {"type": BLOCK_RAM, "attributes": {}} for name in names}
    rows = [f"array.raw_{i}_{j}_DI_{MULTIPLIER}" for i in range(lanes) for j in range(lanes)]
    rates = [f"drain.update_{j}.i_DI" for j in range(lanes)]
    cells |= {f"shell.core.datapath.{name}": {"type": MULTIPLIER, "attributes": {}} for name in rows + rates}
    cells["flop"] = {"type": "TRELLIS_FF", "attributes": {}}
    return cells


def sites(cells: dict[str, Any]) -> dict[str, str]:
    return {name: cell["attributes"]["BEL"] for name, cell in cells.items() if "BEL" in cell["attributes"]}


def column(site: str) -> int:
    return int(site[1 : site.index("/")])


@pytest.mark.parametrize(
    ("n", "each", "others"),
    [(8, {"wgt": 12, "act": 4, "err": 2}, 9), (8, {"wgt": 12, "act": 4, "err": 2, "tab": 1}, 9), (4, {"wgt": 3}, 1)],
)
def test_every_block_has_a_site_of_its_own(n: int, each: dict[str, int], others: int) -> None:
    cells = blocks(n, each, others, lanes=n if sum(each.values()) > n else 0)
    assert place(cells, n) == len(cells) - 1
    found = sites(cells)
    assert len(set(found.values())) == len(found) == len(cells) - 1
    assert "BEL" not in cells["flop"]["attributes"]
    grid = {ram(x, y) for x in range(COLUMNS) for y in range(len(RAM_ROWS))}
    grid |= {multiplier(x, y) for x in range(COLUMNS) for y in range(2)}
    assert set(found.values()) <= grid


def test_a_bank_lies_in_a_strip_with_its_lane() -> None:
    cells = blocks(8, {"wgt": 12, "act": 4, "err": 2}, 9, lanes=8)
    place(cells, 8)
    strips: dict[int, list[int]] = {k: [] for k in range(8)}
    for name, site in sites(cells).items():
        if found := re.search(r"bank_(\d)|raw_\d_(\d)|update_(\d)", name):
            strips[int(next(filter(None, found.groups())))].append(column(site))
    spans = [(min(strip), max(strip)) for strip in strips.values()]
    assert all(left[1] < right[0] for left, right in zip(spans, spans[1:], strict=False))
    assert max(high - low for low, high in spans) < 20


def test_what_belongs_to_no_bank_lies_between() -> None:
    cells = blocks(4, {"wgt": 3}, 6)
    place(cells, 4)
    found = sites(cells)
    middle = [column(site) for name, site in found.items() if "program" in name]
    left, right = ([column(site) for name, site in found.items() if f"bank_{k}_" in name] for k in (1, 2))
    assert max(left) < min(middle) <= max(middle) < min(right)


def test_nothing_is_placed_where_it_does_not_fit() -> None:
    cells = blocks(8, {"wgt": 40}, 9)
    assert place(cells, 8) == 0
    assert sites(cells) == {}


def test_multipliers_that_do_not_fit_are_the_placers() -> None:
    cells = blocks(8, {"wgt": 3}, 1, lanes=8)
    assert place(cells, 8) == 25
    assert all(cells[name]["type"] == BLOCK_RAM for name in sites(cells))
