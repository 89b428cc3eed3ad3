import dataclasses

import numpy as np
import platformdirs
import pytest

from insitu.models import datasets
from insitu.models.datasets import FILES, Dataset, available, load
from insitu.models.errors import FormatError, InvalidInputError, MissingDataError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(datasets.ENVIRONMENT, raising=False)
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda name: str(tmp_path / "user" / name))


def test_digits():
    digits = load("digits")
    assert digits.x_train.shape[1:] == digits.in_shape == (1, 8, 8)
    assert len(digits.y_train) + len(digits.y_test) == 1797
    assert digits.x_train.max() == 1
    assert digits.x_train.min() == 0
    # Sixteen grey levels: what was read is what scikit-learn holds.
    assert np.array_equal(digits.x_train * 16, np.round(digits.x_train * 16))
    shares = np.bincount(digits.y_test) / np.bincount(digits.y_train)
    assert shares.min() > 0.23
    assert shares.max() < 0.27
    again = load("digits")
    assert np.array_equal(digits.x_test, again.x_test)
    assert np.array_equal(digits.y_train, again.y_train)


def test_digits_parts_share_no_image_order(tmp_path):
    digits = load("digits", tmp_path)
    rows = {image.tobytes() for image in digits.x_train}
    assert sum(image.tobytes() in rows for image in digits.x_test) <= 1


@pytest.mark.parametrize("packed", [False, True])
def test_idx_folder(tmp_path, write_folder, idx_arrays, packed):
    write_folder(tmp_path / "mnist", packed)
    x_train, y_train, x_test, y_test = idx_arrays()
    loaded = load("mnist", tmp_path)
    assert (loaded.name, loaded.classes, loaded.in_shape) == ("mnist", 3, (1, 6, 6))
    np.testing.assert_array_equal(np.rint(loaded.x_train[:, 0] * 255), x_train)
    np.testing.assert_array_equal(np.rint(loaded.x_test[:, 0] * 255), x_test)
    np.testing.assert_array_equal(loaded.y_train, y_train)
    np.testing.assert_array_equal(loaded.y_test, y_test)
    assert loaded.x_train.max() <= 1


def test_where_data_is_looked_for(tmp_path, write_folder, monkeypatch):
    write_folder(tmp_path / "user" / "insitu" / "mine")
    assert load("mine").name == "mine"
    write_folder(tmp_path / "env" / "other")
    monkeypatch.setenv(datasets.ENVIRONMENT, str(tmp_path / "env"))
    assert load("other").name == "other"
    with pytest.raises(MissingDataError, match="env/mine"):
        load("mine")
    assert load("mine", tmp_path / "user" / "insitu").name == "mine"


def test_root_may_be_the_folder_itself_when_it_has_the_name(tmp_path, write_folder):
    write_folder(tmp_path / "mnist")
    assert load("mnist", tmp_path / "mnist").classes == 3
    with pytest.raises(MissingDataError, match="mnist/fashion-mnist"):
        load("fashion-mnist", tmp_path / "mnist")


def test_missing_data_says_where_and_how(tmp_path):
    with pytest.raises(MissingDataError) as caught:
        load("mnist", tmp_path)
    text = str(caught.value)
    assert str(tmp_path / "mnist") in text
    assert "insitu data fetch mnist" in text
    assert "INSITU_DATA" in text
    assert "\n" not in text
    with pytest.raises(MissingDataError) as caught:
        load("mnits", tmp_path)
    assert "fetch" not in str(caught.value)


def test_one_missing_file_is_named(tmp_path, write_folder):
    write_folder(tmp_path / "mnist")
    (tmp_path / "mnist" / f"{FILES[3]}.gz").unlink()
    with pytest.raises(MissingDataError, match=FILES[3]):
        load("mnist", tmp_path)


@pytest.mark.parametrize("name", ["", "../mnist", "a/b", ".hidden"])
def test_names_that_are_no_folder(name, tmp_path):
    with pytest.raises(InvalidInputError, match="data set name"):
        load(name, tmp_path)


def test_files_that_do_not_belong_together(tmp_path, write_folder, idx_arrays):
    arrays = idx_arrays()
    write_folder(tmp_path / "short", arrays=[arrays[0], arrays[1][:-1], arrays[2], arrays[3]])
    with pytest.raises(FormatError, match="11 labels for 12 images"):
        load("short", tmp_path)
    write_folder(tmp_path / "sides", arrays=[arrays[0], arrays[1], arrays[2][:, :5], arrays[3]])
    with pytest.raises(FormatError, match="5 x 6"):
        load("sides", tmp_path)
    write_folder(tmp_path / "swapped", arrays=[arrays[1], arrays[0], arrays[2], arrays[3]])
    with pytest.raises(FormatError, match="expected uint8 of 3"):
        load("swapped", tmp_path)


def test_available(tmp_path, write_folder):
    write_folder(tmp_path / "mine")
    write_folder(tmp_path / "fashion-mnist")
    (tmp_path / "fashion-mnist" / f"{FILES[2]}.gz").unlink()
    entries = {entry.name: entry for entry in available(tmp_path)}
    assert list(entries) == ["digits", "mnist", "fashion-mnist", "mine"]
    assert entries["digits"][1:4] == ("scikit-learn", (1, 8, 8), (1437, 360))
    assert entries["mnist"][1:] == (None, None, None, "")
    assert entries["mine"][1:] == (str(tmp_path / "mine"), (1, 6, 6), (12, 5), "")
    assert entries["fashion-mnist"].counts is None
    assert FILES[2] in entries["fashion-mnist"].problem


def test_available_sees_a_root_that_is_itself_a_set(tmp_path, write_folder):
    write_folder(tmp_path / "mine")
    entries = {entry.name: entry for entry in available(tmp_path / "mine")}
    assert entries["mine"].counts == (12, 5)
    assert [entry.name for entry in available(tmp_path / "nowhere")] == ["digits", "mnist", "fashion-mnist"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": 1}, "1 classes"),
        ({"classes": 2}, "spans 0..2"),
        ({"x_train": np.zeros((200, 1, 8, 8))}, "float64"),
        ({"x_test": np.zeros((100, 1, 8, 9), np.float32)}, "8, 9"),
        ({"y_test": np.zeros(3, np.int64)}, r"int64 \[3\]"),
        ({"y_train": np.zeros(200, np.int32)}, "int32"),
    ],
)
def test_dataset_validates_itself(blobs: Dataset, change, says):
    with pytest.raises(InvalidInputError, match=says):
        dataclasses.replace(blobs, **change)
