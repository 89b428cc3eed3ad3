"""The guard: decides which weights are served, and takes the device back when training has collapsed.

Two sets of weights: the *incumbent*, which is served, and the *challenger*, which the device trains. Both answer the
same held-out samples; they differ on some, and on those an exact sign test (McNemar's) asks whether one of them agrees
with the labels more often than chance. The challenger replaces the incumbent only when it is better beyond doubt, and
also has won no fewer of the held-out samples than it has lost against the *first* weights, those the guard began with.
It is rolled back when it is worse beyond doubt, or when the loss or the share of saturated elements says that it has
collapsed.

The error allowed is split over all looks of the guard's life, alpha / (k (k + 1)) at the k-th, which sums to alpha:
neither many looks nor many promotions add up to luck. So with probability at least 1 - alpha, as judged by the labels
at hand (the teacher's, or true ones where they arrived), nothing was ever served that is no better than what it
replaced. A teacher that errs can mislead the guard: `gold` questions find one out.

A device that is rolled back has the incumbent's program too: with its weights the learning rate that they were trained
at, so that a rate that was raised since and made training diverge does not do so again.

Whatever weights the guard puts into the device it reads back: a memory with stuck bits holds others. Such a device is
no good for any weights, so the guard stops with MemoryFault; the incumbent is for a device that holds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.host.device.driver import Driver
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import HostError, MemoryFault


class Verdict(StrEnum):
    """What a look at the challenger came to."""

    KEPT = "kept"  #: no evidence either way: go on training, serve the incumbent
    PROMOTED = "promoted"  #: the challenger is served from now on
    ROLLED_BACK = "rolled back"  #: the device is back at the incumbent


@dataclass(frozen=True, kw_only=True)
class GuardPolicy:
    """When the guard acts.

    alpha: chance allowed, over the guard's whole life, of serving weights that are no better than those they replace.
    every: training steps between looks. recent: held-out samples looked at, the newest: older ones are of a scene that
    may have gone. loss_factor: collapse where the mean loss of `window` steps is this many times its mean when the
    incumbent was installed. saturated_share: collapse where more than this share of the elements written were clipped.
    """

    alpha: float = 0.05
    every: int = 32
    recent: int = 128
    window: int = 16
    loss_factor: float = 4.0
    saturated_share: float = 0.2

    def __post_init__(self) -> None:
        for name, low in (("every", 1), ("recent", 1), ("window", 1)):
            if getattr(self, name) < low:
                raise HostError(f"{name} is {getattr(self, name)}: must be at least {low}")
        for name in ("alpha", "saturated_share"):
            if not 0 < getattr(self, name) < 1:
                raise HostError(f"{name} is {getattr(self, name)}: must lie between 0 and 1")
        if not self.loss_factor > 1:
            raise HostError(f"loss_factor is {self.loss_factor}: must be above 1")


@dataclass
class Guard:
    """Watches one driver. `observe` after every training step, `look` when `due`."""

    driver: Driver
    policy: GuardPolicy = field(default_factory=GuardPolicy)

    def __post_init__(self) -> None:
        self.first: Snapshot = self.driver.snapshot()
        self.incumbent = self.first
        self._program = self.driver.program  #: that the incumbent was trained by
        self.looks = 0
        self.promotions = 0
        self.rollbacks = 0
        self.reason = ""  #: of the last rollback
        self._steps = 0
        self._losses: deque[float] = deque(maxlen=self.policy.window)
        self._saturated: deque[float] = deque(maxlen=self.policy.window)
        self._reference_loss: float | None = None

    def observe(self, loss: float, saturated_share: float) -> None:
        """A training step's mean loss and the share of elements it wrote that were clipped."""
        self._steps += 1
        self._losses.append(loss)
        self._saturated.append(saturated_share)
        if self._reference_loss is None and len(self._losses) == self.policy.window:
            self._reference_loss = self._mean_loss()

    def _mean_loss(self) -> float | None:
        """Of the window; None where there is none that could be compared with."""
        mean = float(np.mean(self._losses)) if self._losses else float("nan")
        return mean if np.isfinite(mean) else None

    @property
    def collapsed(self) -> str:
        """Why training has collapsed by its own signs, or "" where it has not."""
        if len(self._losses) < self.policy.window:
            return "" if all(np.isfinite(self._losses)) else "the loss is not finite"
        loss, saturated = float(np.mean(self._losses)), float(np.mean(self._saturated))
        if not np.isfinite(loss):
            return "the loss is not finite"
        if self._reference_loss is not None and loss > self.policy.loss_factor * max(self._reference_loss, 0.05):
            return f"the loss is {loss:.3g}, was {self._reference_loss:.3g}"
        if saturated > self.policy.saturated_share:
            return f"{saturated:.0%} of all elements saturate"
        return ""

    @property
    def due(self) -> bool:
        """Whether it is time for a look."""
        return bool(self.collapsed) or self._steps >= self.policy.every

    def look(self, x: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Verdict:
        """Compare challenger and incumbent on held-out samples [n, ...] with labels [n]; leaves the device with the
        weights that training goes on from. Raises MemoryFault where it does not hold them."""
        self._steps = 0
        collapsed = self.collapsed
        if collapsed:
            return self._roll_back(collapsed)
        if len(x) == 0:
            return Verdict.KEPT
        from scipy.stats import binomtest  # most of a second to import

        challenger = self.driver.snapshot()
        right = self._right(x, labels)
        won, lost = self._against(self.incumbent, right, x, labels)
        self.looks += 1
        alpha = self.policy.alpha / (self.looks * (self.looks + 1))
        better = won > lost and binomtest(won, won + lost, alternative="greater").pvalue < alpha
        worse = lost > won and binomtest(lost, won + lost, alternative="greater").pvalue < alpha
        if better and self.promotions:  # before the first promotion the incumbent is the first
            won_first, lost_first = self._against(self.first, right, x, labels)
            better = won_first >= lost_first
        self._put(challenger)
        if better:
            self._install(challenger)
            return Verdict.PROMOTED
        if worse:
            return self._roll_back(f"{lost} of {len(x)} held-out answers lost, {won} won")
        return Verdict.KEPT

    def serve(self) -> Snapshot:
        """Put the incumbent into the device and return it: what is served at the end. Raises MemoryFault where the
        device does not hold it."""
        self._put(self.incumbent)
        return self.incumbent

    def state(self) -> dict[str, Any]:
        """What the guard knows besides weights, JSON-ready: for a checkpoint."""
        return {
            "looks": self.looks,
            "promotions": self.promotions,
            "rollbacks": self.rollbacks,
            "reason": self.reason,
            "steps": self._steps,
            "losses": list(self._losses),
            "saturated": list(self._saturated),
            "reference_loss": self._reference_loss,
        }

    def resume(self, incumbent: Snapshot, first: Snapshot, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's incumbent, first weights and `state`."""
        self.incumbent, self.first = incumbent, first
        self.looks, self.promotions, self.rollbacks = (int(state[k]) for k in ("looks", "promotions", "rollbacks"))
        self.reason, self._steps = str(state["reason"]), int(state["steps"])
        self._losses.extend(state["losses"])
        self._saturated.extend(state["saturated"])
        self._reference_loss = state["reference_loss"]

    def _right(self, x: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return np.asarray(self.driver.infer(x).argmax(axis=1) == labels)

    def _against(
        self,
        other: Snapshot,
        right: npt.NDArray[np.bool_],
        x: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
    ) -> tuple[int, int]:
        """Samples that weights with these `right` answers won from `other`, and lost; leaves `other` in the device."""
        self._put(other)
        other_right = self._right(x, labels)
        return int((right & ~other_right).sum()), int((other_right & ~right).sum())

    def _put(self, snapshot: Snapshot) -> None:
        """Restore a snapshot, and see that the device's memory has it."""
        self.driver.restore(snapshot)
        read = self.driver.snapshot()
        held = read.masters | read.velocities
        for name, wanted in (snapshot.masters | snapshot.velocities).items():
            wrong = int((held[name] != wanted).sum())
            if wrong:
                raise MemoryFault(
                    f"{wrong} of the {wanted.size} numbers of {name} read back otherwise than they were written: the "
                    "device's memory is faulty, take it out of service"
                )

    def _install(self, snapshot: Snapshot) -> None:
        self.incumbent, self._program = snapshot, self.driver.program
        self.promotions += 1
        self._reference_loss = self._mean_loss()

    def _roll_back(self, reason: str) -> Verdict:
        if self.driver.program is not self._program:
            self.driver.replace_program(self._program)
        self._put(self.incumbent)
        self.rollbacks += 1
        self.reason = reason
        self._losses.clear()
        self._saturated.clear()
        return Verdict.ROLLED_BACK
