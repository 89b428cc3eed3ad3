"""What a run learns from: pools of samples drawn by its seed, the test set of its scene, its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from insitu.models import students, teachers, training
from insitu.models.curricula.context import Answering
from insitu.models.curricula.noise import Noise
from insitu.models.curricula.numbers import softmax
from insitu.models.curricula.pool import UNKNOWN, Images, Logits, Pool, skewed
from insitu.models.datasets import Dataset
from insitu.models.errors import InvalidInputError
from insitu.models.shifts import Shift

Rows = npt.NDArray[np.int64]

#: What disturbs test images: another jitter than any pool's, the same for every seed of a run.
TEST_SEED = 7919


@dataclass(frozen=True, kw_only=True)
class PoolSpec:
    """How a pool is drawn: samples of the training set that no other pool has.

    count: samples; of `classes` alone where some are named, as many of each where `even`; then thinned out by `skew`
    (`models.curricula.pool.skewed`). labels: whether anyone knows them; noise: how they are wrong. scene: that its
    samples are seen in.
    """

    count: int
    labels: bool = True
    noise: Noise = Noise()
    skew: float = 1.0
    classes: tuple[int, ...] = ()
    even: bool = False
    scene: Shift = Shift()


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """A fixed teacher, trained on a pool with its labels as they are given. model: `teacher` (models/teachers.py) or a
    student's specification. width: of `teacher`. epochs: passes over the pool."""

    pool: str
    model: str = "teacher"
    width: int = 16
    epochs: int = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """What one seed's runs have in common. taught: the teacher's probabilities of the test images, float32 [n,
    classes]; None where there is no teacher."""

    pools: Mapping[str, Pool]
    test: Pool
    teacher: Answering
    taught: npt.NDArray[np.float32] | None = None

    def teacher_to_json(self) -> dict[str, float] | None:
        """The teacher's accuracy on the test images, and how sure it is of its answers."""
        if self.taught is None:
            return None
        right = self.taught.argmax(axis=1) == self.test.y
        return {"accuracy": float(right.mean()), "confidence": float(self.taught.max(axis=1).mean())}


@dataclass
class Preparing:
    """Makes what runs learn from. Teachers are trained once a pool and seed."""

    dataset: Dataset
    _taught: dict[bytes, nn.Module] = field(default_factory=dict)

    def prepare(self, pools: Mapping[str, PoolSpec], teacher: TeacherSpec | None, scene: Shift, seed: int) -> Prepared:
        """Pools, test set and teacher of a seed. Raises InvalidInputError where the training set has too few."""
        dataset = self.dataset
        drawn = draw(dataset, pools, seed)
        made = {name: self._pool(spec, drawn[name], seed) for name, spec in pools.items()}
        test = Pool(x=scene.apply(dataset.x_test, seed=TEST_SEED), y=dataset.y_test, classes=dataset.classes)
        if teacher is None:
            return Prepared(pools=made, test=test, teacher=no_teacher)
        module = self._teacher(teacher, made[teacher.pool], seed)
        told: dict[bytes, Logits] = {}

        def answers(x: Images) -> Logits:
            """The same samples are asked about by every arm."""
            key = blake2b(x.tobytes()).digest()
            if key not in told:
                told[key] = training.logits(module, x)
            return told[key]

        return Prepared(
            pools=made,
            test=test,
            teacher=answers,
            taught=softmax(training.logits(module, test.x)),
        )

    def _pool(self, spec: PoolSpec, rows: Rows, seed: int) -> Pool:
        dataset = self.dataset
        # Seeds beside the test set's: jitter and noise are those of the sample, in whatever pool it is.
        x = spec.scene.apply(dataset.x_train[rows], seed=1_000_003 * (seed + 1) + rows)
        y = spec.noise.apply(dataset.y_train[rows], dataset.classes, np.random.default_rng((seed, 3)))
        return Pool(x=x, y=y if spec.labels else np.full_like(y, UNKNOWN), classes=dataset.classes)

    def _teacher(self, spec: TeacherSpec, pool: Pool, seed: int) -> nn.Module:
        key = blake2b(f"{spec} {seed}".encode() + pool.x.tobytes() + pool.y.tobytes()).digest()
        if key not in self._taught:
            self._taught[key] = taught(spec, pool, seed)
        return self._taught[key]


def draw(dataset: Dataset, pools: Mapping[str, PoolSpec], seed: int) -> dict[str, Rows]:
    """Places in the training set of each pool's samples, int64 [n], no sample in two pools. A pool draws before those
    named after it. Raises InvalidInputError where too few are left."""
    left = np.random.default_rng((seed, 0)).permutation(len(dataset.y_train))
    found: dict[str, Rows] = {}
    for name, spec in pools.items():
        y = dataset.y_train[left]
        if spec.classes and max(spec.classes) >= dataset.classes:
            raise InvalidInputError(
                f"pools.{name}.classes has {max(spec.classes)}; {dataset.name} has 0 to {dataset.classes - 1}"
            )
        of = spec.classes or tuple(range(dataset.classes))
        if spec.even:
            each = -(-spec.count // len(of))
            places = np.sort(np.concatenate([np.flatnonzero(y == c)[:each] for c in of]))
        else:
            places = np.flatnonzero(np.isin(y, of))
        if len(places) < spec.count:
            raise InvalidInputError(
                f"pools.{name}.count is {spec.count}; {dataset.name} has {len(places)} such training samples left"
            )
        places = places[: spec.count]
        rows = left[places]
        left = np.delete(left, places)
        if spec.skew > 1:
            rows = rows[skewed(dataset.y_train[rows], dataset.classes, spec.skew, np.random.default_rng((seed, 1)))]
        found[name] = rows
    return found


def taught(spec: TeacherSpec, pool: Pool, seed: int) -> nn.Module:
    """A teacher trained on the labelled samples of a pool, in float32."""
    known = pool.select(np.flatnonzero(pool.y != UNKNOWN))
    shape = (1, *known.x.shape[2:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: nn.Module
        if spec.model == "teacher":
            module = teachers.Teacher(shape, pool.classes, spec.width)
        else:
            module = students.build(spec.model, in_shape=shape, classes=pool.classes, seed=seed)
    training.train(
        module, known.x, known.y, epochs=spec.epochs, batch=64, lr=2e-3, seed=seed, schedule="cosine", optimizer="adam"
    )
    return module.eval()


def no_teacher(_: Images) -> Logits:
    """Who answers where a file has no teacher. Raises InvalidInputError."""
    raise InvalidInputError("a teacher is asked and there is none; give the file a table [teacher]")
