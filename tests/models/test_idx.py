import gzip

import numpy as np
import pytest

from insitu.models import idx
from insitu.models.errors import FormatError, MissingDataError


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_reads_back_every_type(tmp_path, idx_bytes, dtype, packed):
    wanted = (np.arange(24) - (0 if dtype == "u1" else 12)).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx_bytes(wanted)) if packed else idx_bytes(wanted))
    got = idx.read(path)
    assert got.dtype == wanted.dtype
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, wanted)
    assert idx.header(path)[1] == (2, 3, 4)


def test_known_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes.fromhex("00000b02 00000001 00000002 0100 ffff"))
    np.testing.assert_array_equal(idx.read(path), np.array([[256, -1]], np.int16))


def test_name_does_not_decide_whether_it_is_packed(tmp_path, idx_bytes):
    path = tmp_path / "file.gz"
    path.write_bytes(idx_bytes(np.arange(3, dtype=np.uint8)))
    assert idx.read(path).tolist() == [0, 1, 2]


def test_a_file_without_elements(tmp_path, idx_bytes):
    path = tmp_path / "file"
    path.write_bytes(idx_bytes(np.zeros((0, 4), np.uint8)))
    assert idx.read(path).shape == (0, 4)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "nothing"),
        (b"\x00\x00\x08", "00 00 08"),
        (b"PNG!....", "50 4e 47 21"),
        (b"\x00\x00\x07\x01\x00\x00\x00\x00", "00 00 07 01"),
        (b"\x00\x00\x08\x00\x05", "00 00 08 00"),
        (b"\x00\x00\x08\x02\x00\x00\x00\x01", "truncated inside the header"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abcd", "truncated, 4 bytes"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x03abcd", "too long, 4 bytes"),
        (b"\x00\x00\x08\x02\xff\xff\xff\xff\xff\xff\xff\xffabcd", "truncated, 4 bytes"),
    ],
)
def test_refuses_and_names_the_file(tmp_path, content, says):
    path = tmp_path / "bad-one"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=says) as caught:
        idx.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [10, 40, -4])
def test_truncated_gzip(tmp_path, idx_bytes, keep):
    path = tmp_path / "cut.gz"
    noise = np.random.default_rng(0).integers(0, 256, 500, np.uint8)
    path.write_bytes(gzip.compress(idx_bytes(noise))[:keep])
    with pytest.raises(FormatError, match=r"cut\.gz: gzip data is truncated"):
        idx.read(path)


def test_damaged_gzip(tmp_path, idx_bytes):
    content = bytearray(gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 256, 500, np.uint8))))
    content[-6] ^= 1
    path = tmp_path / "damaged.gz"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"damaged\.gz"):
        idx.read(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(MissingDataError, match="no IDX file at"):
            idx.read(path)
