"""What lies where in each memory as a training step goes on: found in its instructions, and drawn."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

from insitu.arch.files import write_whole
from insitu.arch.isa import UPDATES, USED, Instruction
from insitu.arch.layout import Matrix, Memory
from insitu.arch.program import Program
from insitu.host.errors import HostError

#: How the names of drawings end.
FORMATS = (".svg", ".pdf", ".png")
#: Memories whose contents the next step needs.
_KEPT = (Memory.WGT, Memory.TAB)
#: The share of a panel's height from which a segment has its name written in it.
_NAMED = 0.03


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A matrix from when it is written to when it is read last, as instructions of an entry; weights and tables are
    there from the first. names: of the tensors that it can be."""

    matrix: Matrix
    first: int
    last: int
    names: tuple[str, ...]


def segments(program: Program, entry: str = "train") -> list[Segment]:
    """What an entry's memories hold, in the order in which it is written."""
    found: list[Segment] = []
    held: dict[tuple[Memory, int], int] = {}
    for index, instruction in enumerate(program.entry(entry)):
        places = instruction.matrices
        # An update reads what it writes.
        reads = [name for name in places if name != "d" or places["d"].memory is Memory.WGT]
        for name in reads:
            at = held.get((places[name].memory, places[name].base))
            if at is None:  # there before the entry begins
                at = _hold(found, held, places[name], 0, _names(program, instruction, name))
            found[at] = replace(found[at], last=index)
        if "d" in places and "d" not in reads:
            _hold(found, held, places["d"], index, _names(program, instruction, "d"))
    last = len(program.entry(entry)) - 1
    return [replace(s, last=last) if s.matrix.memory in _KEPT else s for s in found]


def check_format(path: Path) -> None:
    """Raise HostError where a path's name says no format that `draw` writes."""
    if path.suffix not in FORMATS:
        raise HostError(f"draw {str(path)!r}: its name ends in {', '.join(FORMATS)}")


def draw(program: Program, path: Path, entry: str = "train") -> None:
    """Draw the segments of an entry: instructions across, words up, a panel a memory. The format follows from the
    path's name; the file is written whole or not at all. Raises HostError for a name that says none, OSError."""
    check_format(path)
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    found, n = segments(program, entry), program.core.n
    memories = [memory for memory in Memory if any(s.matrix.memory is memory for s in found)]
    figure = Figure(figsize=(11, 3.2 * len(memories)), layout="constrained")
    colours = _colours()
    for memory, axes in zip(memories, figure.subplots(len(memories), 1, sharex=True, squeeze=False)[:, 0], strict=True):
        here = [s for s in found if s.matrix.memory is memory]
        top = max(s.matrix.end(n) for s in here)
        for segment in here:
            words, name = segment.matrix.words(n), " / ".join(segment.names)
            span = segment.last - segment.first + 1
            colour = colours[sum(map(ord, name)) % len(colours)]
            axes.broken_barh([(segment.first, span)], (segment.matrix.base, words), facecolor=colour, edgecolor="black")
            if words < _NAMED * top:
                continue
            axes.text(
                segment.first + span / 2,
                segment.matrix.base + words / 2,
                name,
                ha="center",
                va="center",
                fontsize=7,
                clip_on=True,
            )
        axes.set_title(f"{memory.name}: {top:,} of {program.core.depth(memory):,} words of {n}", fontsize=10)
        axes.set_ylabel("words")
        axes.set_ylim(0, top)
    labels = [i.opcode.name for i in program.entry(entry)]
    axes.set_xticks([k + 0.5 for k in range(len(labels))], labels, rotation=90, fontsize=6)
    axes.set_xlim(0, len(labels))
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix.removeprefix("."), dpi=150)
    write_whole(path, image.getvalue())


def _hold(
    found: list[Segment], held: dict[tuple[Memory, int], int], matrix: Matrix, index: int, names: tuple[str, ...]
) -> int:
    held[matrix.memory, matrix.base] = len(found)
    found.append(Segment(matrix=matrix, first=index, last=index, names=names))
    return len(found) - 1


def _names(program: Program, instruction: Instruction, operand: str) -> tuple[str, ...]:
    """The tensors that an operand can be: those at its place, of its scale register where the instruction has one."""
    matrix = instruction.matrices[operand]
    here = {name: tensor for name, tensor in program.tensors.items() if tensor.matrix == matrix}
    updates = instruction.opcode in UPDATES
    register = "sm" if operand == "d" and updates else f"s{operand}"
    scaled = register in USED[instruction.opcode]
    exact = [name for name, t in here.items() if scaled and t.scale == getattr(instruction, register)]
    return tuple(exact or here)


def _colours() -> list[tuple[float, float, float]]:
    """Light colours, a name's always the same."""
    from matplotlib import colormaps

    return [colormaps["Pastel1"](k)[:3] for k in range(9)]
