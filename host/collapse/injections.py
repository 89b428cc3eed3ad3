"""Twenty collapses: each of ten faults before anything better than the shipped student is served, and after."""

from __future__ import annotations

from insitu.host.collapse.faults import Bits, Fault, LearningRate, Liar

#: Samples of the stream at which they begin: of 1280, early and at half.
EARLY, LATE = 64, 640

FAULTS: tuple[Fault, ...] = (
    LearningRate(rate=2),
    LearningRate(rate=8),
    LearningRate(rate=256),
    Liar(turn=1),
    Liar(turn=5),
    Liar(turn=3, share=0.5),
    Bits(bank=0, bit=15),
    Bits(bank=6, bit=13),
    Bits(bank=1, bit=15, stuck=False),
    Bits(bank=4, bit=14, stuck=False),
)

TWENTY: tuple[tuple[Fault, int], ...] = tuple((fault, at) for at in (EARLY, LATE) for fault in FAULTS)
