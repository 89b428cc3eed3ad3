"""What the online-fix loop works on: data, scene, teacher, student, and the stream of samples the scene gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from insitu.models import draws, students, teachers, training
from insitu.models.datasets import Dataset, load
from insitu.models.shifts import Shift

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

#: The laboratory's training of a student: float32, clean images, as its maker would.
LAB: dict[str, Any] = {"batch": 32, "lr": 0.1, "momentum": 0.9, "schedule": "cosine"}


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a device meets: the data as its scene shows them, and a user.

    seed: of the stream. flag_rate: share of wrong answers that a user flags. label_rate: share of the samples asked for
    whose true label arrives.
    """

    dataset: Dataset
    shift: Shift
    seed: int
    flag_rate: float = 0.0
    label_rate: float = 0.0

    def stream(self, first: int, count: int) -> tuple[Images, Labels]:
        """Samples `first` .. `first + count` of an endless stream, with the labels that only a user would know.

        The training images in the scene, in a new order and with new disturbance each time round. Each sample is a
        function of the seed and its position alone: however the stream is cut, it is the same.
        """
        positions = first + np.arange(count)
        order = self._order(positions)
        seeds = (draws.keys(self.seed, positions, "disturbance") >> np.uint64(1)).astype(np.int64)
        return self.shift.apply(self.dataset.x_train[order], seeds), self.dataset.y_train[order]

    def pictured(self, positions: Labels) -> npt.NDArray[np.uint64]:
        """uint64 [n]: which picture is disturbed at these positions of the stream; the same pixels are the same."""
        return self._pictures[self._order(positions)]

    @cached_property
    def _pictures(self) -> npt.NDArray[np.uint64]:
        """Hashes of the training images, [n]."""
        hashes = b"".join(blake2b(image.tobytes(), digest_size=8).digest() for image in self.dataset.x_train)
        return np.frombuffer(hashes, "<u8").astype(np.uint64)

    def flags(self, first: int, answers: Labels) -> npt.NDArray[np.bool_]:
        """bool [n]: which answers to the samples from `first` on the user flags; wrong ones only."""
        positions = first + np.arange(len(answers))
        wrong = answers != self.dataset.y_train[self._order(positions)]
        return wrong & self._drawn("flag", positions, self.flag_rate)

    def labels(self, positions: Labels) -> Labels:
        """int64 [n]: the true classes of the samples at these positions, -1 where none arrives."""
        known = self._drawn("label", positions, self.label_rate)
        return np.where(known, self.dataset.y_train[self._order(positions)], -1)

    def _drawn(self, what: str, positions: Labels, rate: float) -> npt.NDArray[np.bool_]:
        return np.asarray(draws.uniform(draws.keys(self.seed, positions, what), 1)[:, 0] < rate)

    def _order(self, positions: Labels) -> Labels:
        """Which training image is at each position of the stream, [n]."""
        size = len(self.dataset.x_train)
        laps, offsets = np.divmod(positions, size)
        order = np.empty(len(positions), np.int64)
        for lap in np.unique(laps):
            here = laps == lap
            order[here] = np.random.default_rng((self.seed, int(lap))).permutation(size)[offsets[here]]
        return order


@dataclass(frozen=True, kw_only=True)
class Scene(Surroundings):
    """A student trained on clean data, the scene it now meets, and a teacher trained with that scene in mind.

    x_test, y_test: the scene's whole test set, [n, 1, H, W] in [0, 1] and [n].
    """

    student: nn.Module
    teacher: nn.Module
    x_test: Images
    y_test: Labels


def from_laboratory(
    model: str, dataset: Dataset, *, seed: int, say: Callable[[str], None] = lambda _: None
) -> nn.Module:
    """The student as it is shipped, trained on clean data; `say` hears what is going on. Raises ModelsError."""
    student = students.build(model, in_shape=dataset.in_shape, classes=dataset.classes, seed=seed)
    say(f"laboratory: {model} on {len(dataset.x_train)} clean {dataset.name}")
    training.train(student, dataset.x_train, dataset.y_train, epochs=20, seed=seed, **LAB)
    return student


def test_images(dataset: Dataset, shift: Shift, *, seed: int) -> Images:
    """A scene's whole test set, float32 [n, 1, H, W]."""
    return shift.apply(dataset.x_test, seed=seed + 7919)


def prepare(
    *,
    data: str,
    shift: str,
    model: str,
    seed: int,
    root: str | None = None,
    flag_rate: float = 0.0,
    label_rate: float = 0.0,
    teacher_file: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Scene:
    """Load the data, train the student in the laboratory and the teacher for the scene; `say` hears what is going on.

    teacher_file: where the teacher is kept; one that is there already is used as it is. Raises ModelsError for data
    that is missing, a shift or a model that cannot be read.
    """
    scene = Shift.parse(shift)
    dataset = load(data, root)
    student = from_laboratory(model, dataset, seed=seed, say=say)
    if teacher_file is not None and teacher_file.exists():
        teacher = teachers.load_teacher(teacher_file)
    else:
        say(f"teacher: trained for {shift} at every severity")
        teacher = teachers.train_teacher(dataset, scene, seed=seed)
        if teacher_file is not None:
            teachers.save_teacher(teacher_file, teacher)
    return Scene(
        dataset=dataset,
        shift=scene,
        student=student,
        teacher=teacher,
        x_test=test_images(dataset, scene, seed=seed),
        y_test=dataset.y_test,
        seed=seed,
        flag_rate=flag_rate,
        label_rate=label_rate,
    )
