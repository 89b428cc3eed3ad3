"""What the online-fix loop works on: data, scene, teacher, student, and the stream of samples the scene gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from insitu.models import students, teachers, training
from insitu.models.datasets import Dataset, load
from insitu.models.shifts import Shift

Images = npt.NDArray[np.float32]

#: The laboratory's training of a student: float32, clean images, as its maker would.
LAB: dict[str, Any] = {"batch": 32, "lr": 0.1, "momentum": 0.9, "schedule": "cosine"}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A student trained on clean data, the scene it now meets, and a teacher trained with that scene in mind.

    x_test, y_test: the scene's whole test set, [n, 1, H, W] in [0, 1] and [n].
    """

    dataset: Dataset
    shift: Shift
    student: nn.Module
    teacher: nn.Module
    x_test: Images
    y_test: npt.NDArray[np.int64]
    seed: int

    def stream(self, first: int, count: int) -> tuple[Images, npt.NDArray[np.int64]]:
        """Samples `first` .. `first + count` of an endless stream, with the labels that only a user would know.

        The training images in the scene, in a new order and with new disturbance each time round. A function of the
        seed and the position alone, so that a stream broken off goes on where it was.
        """
        size = len(self.dataset.x_train)
        xs: list[Images] = []
        ys: list[npt.NDArray[np.int64]] = []
        position = first
        while position < first + count:
            lap, offset = divmod(position, size)
            take = min(size - offset, first + count - position)
            order = np.random.default_rng((self.seed, lap)).permutation(size)[offset : offset + take]
            # Disturbance is seeded by position: how the stream is cut into chunks changes nothing beyond a chunk.
            xs.append(self.shift.apply(self.dataset.x_train[order], seed=self.seed * 1_000_003 + position))
            ys.append(self.dataset.y_train[order])
            position += take
        return np.concatenate(xs), np.concatenate(ys)


def prepare(
    *,
    data: str,
    shift: str,
    model: str,
    seed: int,
    root: str | None = None,
    lab_epochs: int = 20,
    teacher_file: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Scene:
    """Load the data, train the student in the laboratory and the teacher for the scene; `say` hears what is going on.

    teacher_file: where the teacher is kept; one that is there already is used as it is. Raises ModelsError for data
    that is missing, a shift or a model that cannot be read.
    """
    scene = Shift.parse(shift)
    dataset = load(data, root)
    student = students.build(model, in_shape=dataset.in_shape, classes=dataset.classes, seed=seed)
    say(f"laboratory: {model} on {len(dataset.x_train)} clean {data}")
    training.train(student, dataset.x_train, dataset.y_train, epochs=lab_epochs, seed=seed, **LAB)
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
        x_test=scene.apply(dataset.x_test, seed=seed + 7919),
        y_test=dataset.y_test,
        seed=seed,
    )
