import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from insitu.models import teachers
from insitu.models.datasets import load
from insitu.models.errors import FormatError, InvalidInputError, MissingDataError
from insitu.models.shifts import Shift
from insitu.models.teachers import Teacher, load_teacher, save_teacher, soft_labels, train_teacher
from insitu.models.training import accuracy, logits


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def scene():
    return Shift.parse("rotate:3")


@pytest.fixture(scope="module")
def teacher(digits, scene):
    return train_teacher(digits, scene, seed=0)


def test_a_teacher_knows_its_scene(digits, scene, teacher):
    shifted = scene.apply(digits.x_test, 100)
    assert accuracy(teacher, shifted, digits.y_test) >= 0.95
    assert accuracy(teacher, digits.x_test, digits.y_test) >= 0.93
    # Without the scene in mind it does not: the scene is what was learnt.
    blind = train_teacher(digits, seed=0, epochs=30)
    assert accuracy(blind, digits.x_test, digits.y_test) >= 0.95
    assert accuracy(blind, shifted, digits.y_test) < 0.6
    assert not teacher.training


def test_seed_alone_decides(digits):
    small = dataclasses.replace(digits, x_train=digits.x_train[:100], y_train=digits.y_train[:100])
    shift = Shift.parse("noise:1+contrast:2")
    answers = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(noise)
        answers.append(logits(train_teacher(small, shift, seed=seed, epochs=1), digits.x_test))
    assert np.array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])


def test_the_lesson_holds_every_severity_and_the_scene(digits, monkeypatch):
    small = dataclasses.replace(digits, x_train=digits.x_train[:30], y_train=digits.y_train[:30])
    monkeypatch.setattr(teachers, "SHIFTED_IMAGES", 20)
    for text, variants in (("none", 0), ("noise:2", 5), ("noise:2+blur:2", 5), ("noise:2+blur:3", 6)):
        x, y = teachers._lesson(small, (Shift.parse(text),), 0)
        assert len(x) == len(y) == 30 + 20 * variants
    x, y = teachers._lesson(small, (Shift.parse("noise:1"),), 0)
    clean = {image.tobytes(): label for image, label in zip(small.x_train, small.y_train, strict=True)}
    assert all(clean[image.tobytes()] == label for image, label in zip(x[:30], y[:30], strict=True))
    spread = [x[30 + 20 * i : 50 + 20 * i][:, :, :, 0].std() for i in range(5)]
    assert spread == sorted(spread)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (1, 28, 28), (1, 9, 14)])
def test_sizes(shape):
    assert Teacher(shape, 7)(torch.zeros(2, *shape)).shape == (2, 7)


def test_too_small():
    with pytest.raises(InvalidInputError, match="3 x 8"):
        Teacher((1, 3, 8), 7)


def test_soft_labels(digits, teacher):
    x = digits.x_test[:50]
    z = logits(teacher, x).astype(np.float64) / 3
    expected = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    p = soft_labels(teacher, x, 3)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p, expected, atol=1e-6)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    assert soft_labels(teacher, x, 1).max() > p.max()
    for temperature in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidInputError, match="temperature"):
            soft_labels(teacher, x, temperature)


def test_saved_and_loaded(tmp_path, digits, teacher):
    path = tmp_path / "deep" / "teacher.npz"
    save_teacher(path, teacher)
    loaded = load_teacher(path)
    assert np.array_equal(logits(loaded, digits.x_test), logits(teacher, digits.x_test))
    assert not loaded.training
    assert [p.name for p in path.parent.iterdir()] == ["teacher.npz"]


def test_an_interrupted_save_keeps_the_old_file(tmp_path, teacher, monkeypatch):
    path = tmp_path / "teacher.npz"
    save_teacher(path, teacher)
    before = path.read_bytes()

    def full(handle):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        save_teacher(path, teacher)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["teacher.npz"]


def test_load_refuses(tmp_path, teacher):
    with pytest.raises(MissingDataError, match="no teacher at"):
        load_teacher(tmp_path / "none.npz")
    good = tmp_path / "good.npz"
    save_teacher(good, teacher)
    bad = tmp_path / "bad.npz"
    contents = [b"", b"garbage", good.read_bytes()[:-200]]
    for content in contents:
        bad.write_bytes(content)
        with pytest.raises(FormatError, match=r"bad\.npz is not a teacher"):
            load_teacher(bad)
    np.savez(bad, **{name: value.numpy() for name, value in teacher.state_dict().items()})
    with pytest.raises(FormatError, match="form"):
        load_teacher(bad)


def test_a_hostile_file_runs_no_code(tmp_path):
    bad, trace = tmp_path / "bad.npz", tmp_path / "trace"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (trace,)

    torch.save(Hostile(), bad)
    with pytest.raises(FormatError, match=r"bad\.npz is not a teacher"):
        load_teacher(bad)
    assert not trace.exists()
