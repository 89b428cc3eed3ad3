# amaranth: UnusedElaboratable=no
"""A banked memory with its address generator: rows and columns of a skewed matrix, one a cycle."""

from __future__ import annotations

from typing import Any

from amaranth import Array, Module, Mux, Value, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from insitu.fpga.common import copies, delay, lanes, register

#: Of all banks: nobody minds what a word that is read as it is written comes as.
ATTRIBUTES = {"no_rw_check": 1}


def address_bits(depth: int) -> int:
    """Bits that address a memory."""
    return max(1, (depth - 1).bit_length())


def read_request(n: int, bits: int) -> wiring.Signature:
    """A read of N elements.

    enable: words are asked for; the banks read at all times. address: of a row's block; of a column's element, less the
    pitch times `turn`, its first row plus its column modulo N. near, far: none for N columns of one row; for N rows of
    one column, far for the banks below `turn`, near for the others.
    """
    return wiring.Signature({"enable": Out(1), "address": Out(bits), "near": Out(n), "far": Out(n)})


def connect(
    m: Module, name: str, bank: memory.Memory, platform: Any, read: Value, enable: Value, target: Value, word: Value
) -> Value:
    """A bank as a submodule of m; the word at `read`, three cycles later, from registers straight behind the memory.
    enable, target, word: written; they reach the memory in the next cycle, as `read` does.

    A platform that has `page_words` gets a bank of more words as memories of so many, and of as many bits as a block
    RAM of that depth has (`block_width`), each with registers of its own before and after it: a block RAM's own output
    register can only take what no multiplexer stands before, and block RAMs of one bank may lie far from each other.
    The same words in the same cycles.
    """
    whole: int = bank.depth
    words = min(whole, getattr(platform, "page_words", whole))
    block_width = getattr(platform, "block_width", lambda _depth: len(word))
    pages, low = -(-whole // words), address_bits(words)
    captured: list[Value] = []
    data = register(len(word), name=f"{name}_data")
    m.d.sync += data.eq(word)
    for page in range(pages):
        depth = min(words, whole - page * words)
        width, out = block_width(depth), register(len(word), name=f"{name}_out_{page}")
        here = enable & (target[low:] == page) if pages > 1 else enable
        for first in range(0, len(word), width):
            bits = min(width, len(word) - first)
            part, label = bank, name
            if (pages, bits) != (1, len(word)):
                part, label = (
                    memory.Memory(shape=bits, depth=depth, init=[], attrs=ATTRIBUTES),
                    f"{name}_{page}_{first}",
                )
            m.submodules[label] = part
            reader, writer = part.read_port(), part.write_port()
            m.d.sync += out[first : first + bits].eq(reader.data)
            m.d.comb += [
                reader.addr.eq(copies(m, read[:low], 1, f"{label}_address")[0][: len(reader.addr)]),
                writer.addr.eq(copies(m, target[:low], 1, f"{label}_place")[0][: len(writer.addr)]),
                writer.data.eq(data[first : first + bits]),
                writer.en.eq(copies(m, here, 1, f"{label}_writes")[0]),
            ]
        captured.append(out)
    which = delay(m, read[low:], 3, f"{name}_which")[-1] if pages > 1 else None
    return captured[0] if which is None else Array(captured)[which]


class BankedMemory(wiring.Component):
    """N banks of `depth` words, one read port and one write port each (arch/layout.py has the layout).

    read: one request a cycle; `o` holds its words, in bank order, READ_LATENCY cycles later. A column's bank k holds
    the row (k - turn) mod N below its first: k pitches above `address`, or N more where k < turn. Both multiples of
    the pitch lie in tables, made in the N cycles after the first that `build` is held for. write: a row's block, the
    banks `enable` names, carried out WRITE_LATENCY cycles later. A word read as it is written may come as anything. No
    back pressure. Contents survive a reset. Tested for N of 4 to 16, any pitch, depths that are no power of two. Every
    bank's ports have registers of their own straight before and after them: a block RAM takes most of a cycle.
    """

    READ_LATENCY = 6
    WRITE_LATENCY = 2

    def __init__(self, n: int, depth: int, width: int) -> None:
        self.n, self.depth, self.width = n, depth, width
        self.bits = address_bits(depth)
        #: The banks; a simulation may look into their `data`.
        self.banks = [memory.Memory(shape=width, depth=depth, init=[], attrs=ATTRIBUTES) for _ in range(n)]
        super().__init__(
            {
                "read": In(read_request(n, self.bits)),
                "build": In(1),
                "pitch": In(12),
                "o": Out(lanes(signed(width), n)),
                "write": In(
                    wiring.Signature(
                        {"enable": Out(n), "address": Out(self.bits), "data": Out(lanes(signed(width), n))}
                    )
                ),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        n, read = self.n, self.read

        multiple = register(self.bits)
        near = [register(self.bits, name=f"near_{i}") for i in range(n)]
        far = [register(self.bits, name=f"far_{i}") for i in range(n)]
        building, pitch = copies(m, self.build, 1, "building")[0], copies(m, self.pitch, 1, "pitch")[0]
        with m.If(building):
            m.d.sync += multiple.eq(multiple + pitch)
            m.d.sync += [near[i].eq(near[i + 1] if i + 1 < n else multiple) for i in range(n)]
            higher = multiple + (pitch << (n.bit_length() - 1))
            m.d.sync += [far[i].eq(far[i + 1] if i + 1 < n else higher) for i in range(n)]
        with m.Else():
            m.d.sync += multiple.eq(0)

        # Banks lie all over a device: what is read takes two cycles to come back, a request a cycle to each bank, and
        # what is written two.
        asked = copies(m, read.address, n, "asked")
        by_far, by_near = (delay(m, which, 1, name)[-1] for which, name in ((read.far, "far"), (read.near, "near")))
        chosen = [register(self.bits, name=f"chosen_{i}") for i in range(n)]
        for i in range(n):
            offset = Mux(by_far[i], far[i], Mux(by_near[i], near[i], 0))
            m.d.sync += chosen[i].eq(asked[i] + offset)

        write = self.write
        target, word = copies(m, write.address, n, "target"), delay(m, write.data, 1, "word")[-1]
        enable = delay(m, write.enable, 1, "enable")[-1]
        o = register(self.o.shape())
        for i, bank in enumerate(self.banks):
            m.d.sync += o[i].eq(connect(m, f"bank_{i}", bank, platform, chosen[i], enable[i], target[i], word[i]))
        m.d.comb += self.o.eq(o)
        return m
