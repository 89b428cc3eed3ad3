"""The random bits of stochastic rounding: one xorshift generator a lane, re-seeded at every instruction that draws.

Each lane has two generators, one for the narrowing of accumulators and one for the weight update. When an
instruction that draws begins, every generator is seeded with a hash of the SEED register, the lane and the stream;
then SEED itself takes one xorshift step. A generator takes one step for every row drained, whether or not its lane
holds a valid element. So an element's r depends on SEED and on its place in the instruction alone, and writing SEED
replays any instruction.

Both functions are add, xor and shift only; like those of `numbers` they are valid numba sources.
"""

from __future__ import annotations

#: 2**32 / golden ratio: spreads consecutive lanes over the 32-bit circle. Also replaces a state of zero.
GOLDEN = 0x9E3779B9
MASK = 0xFFFFFFFF

#: Streams of a lane.
NARROW_STREAM, UPDATE_STREAM = 0, 1
STREAMS = 2


def xorshift(state: int) -> int:
    """One step of the 32-bit generator (13, 17, 5) of Marsaglia, "Xorshift RNGs" (2003). Period 2**32 - 1."""
    state ^= (state << 13) & MASK
    state ^= state >> 17
    state ^= (state << 5) & MASK
    return state


#: Constants of `mix`, one a line; a line is a pipeline stage.
MIX = (0x7ED55D16, 0xC761C23C, 0x165667B1, 0xD3A2646C, 0xFD7046C5, 0xB55A4F09)
MIX_STAGES = len(MIX)


def mix(a: int) -> int:
    """Jenkins' 32-bit integer hash: full avalanche from adds, xors and shifts."""
    a = (a + MIX[0] + (a << 12)) & MASK
    a = (a ^ MIX[1] ^ (a >> 19)) & MASK
    a = (a + MIX[2] + (a << 5)) & MASK
    a = ((a + MIX[3]) ^ (a << 9)) & MASK
    a = (a + MIX[4] + (a << 3)) & MASK
    return (a ^ MIX[5] ^ (a >> 16)) & MASK


def lane_seed(seed: int, lane: int, stream: int) -> int:
    """The state a lane's generator starts an instruction from: never zero."""
    return nonzero(mix(lane_key(seed, lane, stream)))


def lane_key(seed: int, lane: int, stream: int) -> int:
    """What is hashed into a lane's state."""
    return (seed + (STREAMS * lane + stream + 1) * GOLDEN) & MASK


def nonzero(state: int) -> int:
    """A state an xorshift can leave."""
    return state if state != 0 else GOLDEN
