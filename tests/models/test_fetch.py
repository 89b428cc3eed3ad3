import functools
import gzip
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from insitu.models import fetch as module
from insitu.models.datasets import FETCHABLE, FILES, load
from insitu.models.errors import FetchError, InvalidInputError
from insitu.models.fetch import SOURCES, Source, fetch


class Handler(SimpleHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path.rpartition("/")[2])
        super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(tmp_path, write_folder, idx_arrays, idx_bytes, monkeypatch):
    """A server on loopback that publishes a small set, known to the module as `tiny`. Yields (folder, url)."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    published = tmp_path / "published"
    write_folder(published)
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(published))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        hashes = {
            stem: hashlib.sha256(idx_bytes(array)).hexdigest() for stem, array in zip(FILES, idx_arrays(), strict=True)
        }
        monkeypatch.setitem(SOURCES, "tiny", Source(url=url, sha256=hashes))
        yield published, url
        server.shutdown()
        thread.join()


def test_brings_all_four_and_they_load(site, tmp_path):
    seen = []
    folder = fetch("tiny", tmp_path / "data", progress=lambda *report: seen.append(report))
    assert folder == tmp_path / "data" / "tiny"
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{stem}.gz" for stem in FILES)
    assert load("tiny", tmp_path / "data").classes == 3
    for stem in FILES:
        size = (site[0] / f"{stem}.gz").stat().st_size
        reports = [report for report in seen if report[0] == f"{stem}.gz"]
        assert reports[-1] == (f"{stem}.gz", size, size)
        assert all(done <= total == size for _, done, total in reports)


def test_right_files_are_kept_packed_or_not(site, tmp_path, write_folder):
    folder = tmp_path / "data" / "tiny"
    write_folder(folder, packed=False)
    (folder / FILES[1]).unlink()
    fetch("tiny", tmp_path / "data")
    assert Handler.asked == [f"{FILES[1]}.gz"]
    Handler.asked.clear()
    fetch("tiny", tmp_path / "data")
    assert Handler.asked == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_wrong_file_is_replaced(site, tmp_path, write_folder, idx_arrays, packed):
    folder = tmp_path / "data" / "tiny"
    arrays = idx_arrays()
    right = arrays[0].copy()
    arrays[0][0, 0, 0] ^= 255
    write_folder(folder, packed, arrays)
    fetch("tiny", tmp_path / "data")
    assert load("tiny", tmp_path / "data").x_train[0, 0, 0, 0] * 255 == pytest.approx(right[0, 0, 0])


def test_other_packing_of_the_same_content_is_right(site, tmp_path):
    packed = site[0] / f"{FILES[0]}.gz"
    packed.write_bytes(gzip.compress(gzip.decompress(packed.read_bytes()), compresslevel=1, mtime=1))
    fetch("tiny", tmp_path / "data")
    assert load("tiny", tmp_path / "data").classes == 3


@pytest.mark.parametrize("how", ["changed", "cut", "no gzip"])
def test_wrong_content_is_refused_and_leaves_nothing(site, tmp_path, how):
    packed = site[0] / f"{FILES[0]}.gz"
    content = gzip.decompress(packed.read_bytes())
    packed.write_bytes(
        {"changed": gzip.compress(content[:-1] + b"\0\0"), "cut": packed.read_bytes()[:-9], "no gzip": b"<html>"}[how]
    )
    with pytest.raises(FetchError, match="sha256") as caught:
        fetch("tiny", tmp_path / "data")
    assert FILES[0] in str(caught.value)
    assert SOURCES["tiny"].sha256[FILES[0]] in str(caught.value)
    assert not (tmp_path / "data" / "tiny").exists()


def test_a_refused_download_keeps_what_was_there(site, tmp_path, write_folder, idx_arrays):
    folder = tmp_path / "data" / "tiny"
    arrays = idx_arrays()
    arrays[0][0, 0, 0] ^= 255
    write_folder(folder, arrays=arrays)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (site[0] / f"{FILES[0]}.gz").write_bytes(b"<html>")
    with pytest.raises(FetchError):
        fetch("tiny", tmp_path / "data")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_another_base_url(site, tmp_path):
    (site[0] / "mirror").mkdir()
    for stem in FILES:
        (site[0] / f"{stem}.gz").rename(site[0] / "mirror" / f"{stem}.gz")
    with pytest.raises(FetchError, match="404"):
        fetch("tiny", tmp_path / "data")
    fetch("tiny", tmp_path / "data", base_url=site[1] + "mirror")
    assert load("tiny", tmp_path / "data").classes == 3


def test_no_server(site, tmp_path):
    with pytest.raises(FetchError, match="cannot download http://127.0.0.1:1/") as caught:
        fetch("tiny", tmp_path / "data", base_url="http://127.0.0.1:1")
    assert "\n" not in str(caught.value)


def test_unknown_name(tmp_path):
    with pytest.raises(InvalidInputError, match="'cifar'; allowed are mnist, fashion-mnist"):
        fetch("cifar", tmp_path)


def test_the_table_is_complete():
    assert tuple(module.SOURCES) == FETCHABLE
    for source in module.SOURCES.values():
        assert tuple(source.sha256) == FILES
        assert all(len(bytes.fromhex(digest)) == 32 for digest in source.sha256.values())
