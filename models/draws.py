"""Random numbers that are functions of a key alone, many keys at a time: nothing depends on who drew before.

A generator's draws depend on how many came before them, so a stream cut otherwise would be another stream. Here each
sample has a 64-bit key, made from a seed and its position, and its numbers are hashes of that key (splitmix64's
finaliser: Steele et al. 2014, "Fast splittable pseudorandom number generators").
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = 0x9E3779B97F4A7C15


def keys(seed: int, positions: ArrayLike, purpose: str) -> NDArray[np.uint64]:
    """A key a position, uint64 [n]; another seed or purpose gives other keys, so that two uses of one position have
    nothing in common.

    Args:
        seed: any integer.
        positions: integers [n], at least 0.
        purpose: what the numbers are for.
    """
    start = blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    return _mix(np.frombuffer(start, "<u8") + np.asarray(positions).astype(np.uint64) * np.uint64(_GOLDEN))


def uniform(keys: NDArray[np.uint64], count: int) -> NDArray[np.float32]:
    """`count` numbers in [0, 1) a key, float32 [n, count]."""
    return _share(_words(keys, count) >> np.uint64(40))


def normal(keys: NDArray[np.uint64], count: int) -> NDArray[np.float32]:
    """`count` numbers of mean 0 and standard deviation 1 a key, float32 [n, count] (Box and Muller 1958)."""
    words = _words(keys, -(-count // 2))
    # Of the two shares the first goes into a logarithm, so it must not be 0.
    radius = np.sqrt(-2 * np.log(_share((words >> np.uint64(40)) + np.uint64(1))))
    angle = np.float32(2 * np.pi) * _share(words & np.uint64((1 << 24) - 1))
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]


def _words(keys: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mix(keys[:, None] + steps)


def _share(words: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Integers up to 2**24 over 2**24: exact in float32."""
    return words.astype(np.float32) * np.float32(2**-24)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
