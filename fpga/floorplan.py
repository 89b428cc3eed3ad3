"""Where a core's block RAMs and multipliers lie on an ECP5-85F: found by rule, for the placer spreads them too far.

A core in a design of its own has no pins that would hold it in place, and a placer that first lets all cells attract
each other puts its block RAMs, few on a wide grid, where there is room: banks end up torn apart, their addresses' wires
across the whole device. So each bank has a strip of the device, its lane's column of the array in the same one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from insitu.fpga.netlist import BLOCK_RAM, MULTIPLIER

#: The device that this is made for.
SIZE = "85k"
#: Of it: 52 columns of block RAMs and of multipliers, four a group, which a gap in the middle parts.
COLUMNS = 52
_GROUPS = (*range(4, 67, 9), *range(69, 122, 9))
#: Rows of either. Three rows of block RAMs lie above, between and below those of multipliers; the fourth is for more.
RAM_ROWS, MULTIPLIER_ROWS = (22, 46, 70, 82), (34, 58)
#: Memories in the order in which a bank's strip is filled: masters first, for their read port goes a way of its own.
_ORDER = ("wgt", "vel", "act", "err", "tab")
_BANK = re.compile(r"\.datapath\.(\w+)\.bank_(\d+)[_.]")
_CELL = re.compile(r"\.array\.raw_(\d+)_(\d+)_")
_RATE = re.compile(r"\.drain\.update_(\d+)\.")


def ram(column: int, row: int) -> str:
    """The site of a block RAM; column: 0 to 51."""
    return f"X{_GROUPS[column // 4] + 2 * (column % 4)}/Y{RAM_ROWS[row]}/EBR{column % 4}"


def multiplier(column: int, row: int) -> str:
    """The site of a multiplier; column: 0 to 51."""
    z = (0, 1, 4, 5)[column % 4]
    return f"X{_GROUPS[column // 4] + z}/Y{MULTIPLIER_ROWS[row]}/MULT18_{z}"


def place(cells: Mapping[str, Any], n: int) -> int:
    """Give the blocks of a core of N lanes their sites, as attributes that place and route obeys; how many have one.

    Half of the banks lie on each side of what belongs to none. None is given where the strips do not fit; the placer
    finds places for blocks that have none.
    """
    banks: list[list[tuple[int, str]]] = [[] for _ in range(n)]
    others: list[str] = []
    for name, cell in cells.items():
        if cell["type"] != BLOCK_RAM:
            continue
        if found := _BANK.search(name):
            banks[int(found[2])].append((_ORDER.index(found[1]), name))
        else:
            others.append(name)
    for rows in (len(RAM_ROWS) - 1, len(RAM_ROWS)):
        strip, middle = -(-max(map(len, banks)) // rows), -(-len(others) // rows)
        if (first := (COLUMNS - n * strip - middle) // 2) >= 0:
            break
    else:
        return 0
    begins = [first + k * strip + middle * (k >= n // 2) for k in range(n)]
    sites: dict[str, str] = {}
    for begin, bank in zip(begins, banks, strict=True):
        sites |= _filled(begin, strip, [name for _, name in sorted(bank)])
    sites |= _filled(first + n // 2 * strip, middle, sorted(others))
    sites |= _multipliers(cells, begins, strip)
    for name, site in sites.items():
        cells[name]["attributes"]["BEL"] = site
    return len(sites)


def _filled(begin: int, width: int, names: Sequence[str]) -> dict[str, str]:
    return {name: ram(begin + at % width, at // width) for at, name in enumerate(names)}


def _multipliers(cells: Mapping[str, Any], begins: Sequence[int], strip: int) -> dict[str, str]:
    """A lane's column of the array, and what scales its updates, in its bank's strip."""
    columns: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
    for name, cell in cells.items():
        if cell["type"] != MULTIPLIER:
            continue
        if found := _CELL.search(name):
            columns[int(found[2])].append((int(found[1]), name))
        elif found := _RATE.search(name):
            columns[int(found[1])].append((-1, name))
    sites: dict[str, str] = {}
    for lane, column in columns.items():
        width = -(-len(column) // len(MULTIPLIER_ROWS))
        if width > strip:
            return {}
        for at, (_, name) in enumerate(sorted(column)):
            sites[name] = multiplier(begins[lane] + at % width, at // width)
    return sites
