"""Bytes in and out over HTTP."""

import hashlib
import os
import tracemalloc
from pathlib import Path

import httpx
import pytest

from moorage.client import Client
from moorage.errors import BlobMismatch, NotFound, SourceNotFound
from tests.serving import Served

DATA = b"0123456789"
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def http(served: Served):
    with httpx.Client(base_url=served.url) as http:
        yield http


def test_what_is_posted_can_be_fetched(http: httpx.Client) -> None:
    answer = http.post("/v1/blobs", content=DATA)
    assert (answer.status_code, answer.json()) == (201, {"digest": DIGEST, "size": 10})
    assert answer.headers["location"] == f"/v1/blobs/{DIGEST}"
    fetched = http.get(f"/v1/blobs/{DIGEST}")
    assert fetched.content == DATA
    assert fetched.headers["etag"] == f'"{DIGEST}"'
    assert "sandbox" in fetched.headers["content-security-policy"]


def test_an_empty_blob_is_a_blob(http: httpx.Client) -> None:
    digest = http.post("/v1/blobs", content=b"").json()["digest"]
    assert digest == hashlib.sha256().hexdigest()
    assert http.get(f"/v1/blobs/{digest}").content == b""


def test_ranges_are_served(http: httpx.Client) -> None:
    http.post("/v1/blobs", content=DATA)
    part = http.get(f"/v1/blobs/{DIGEST}", headers={"range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert http.get(f"/v1/blobs/{DIGEST}", headers={"range": "bytes=99-"}).status_code == 416


def test_bytes_that_are_not_what_was_announced_are_not_kept(http: httpx.Client) -> None:
    announced = hashlib.sha256(b"something else").hexdigest()
    answer = http.put(f"/v1/blobs/{announced}", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (422, "blob_mismatch")
    assert http.head(f"/v1/blobs/{announced}").status_code == 404


def test_head_tells_the_size(http: httpx.Client) -> None:
    http.put(f"/v1/blobs/{DIGEST}", content=DATA)
    answer = http.head(f"/v1/blobs/{DIGEST}")
    assert (answer.status_code, answer.headers["content-length"]) == (200, "10")


@pytest.mark.parametrize("digest", ["x", DIGEST.upper(), DIGEST + "0", "..%2f..%2fetc%2fpasswd"])
def test_what_is_no_digest_never_reaches_the_disk(http: httpx.Client, digest: str) -> None:
    assert http.get(f"/v1/blobs/{digest}").status_code in {404, 422}
    assert http.put(f"/v1/blobs/{digest}", content=b"").status_code in {404, 405, 422}


def test_an_upload_that_breaks_off_leaves_nothing(served: Served) -> None:
    def broken():
        yield b"begin"
        raise ConnectionAbortedError

    digest = hashlib.sha256(b"begin").hexdigest()
    with httpx.Client(base_url=served.url) as http, pytest.raises(ConnectionAbortedError):
        http.post("/v1/blobs", content=broken())
    with Client(served.url) as client:
        assert not client.has_blob(digest)


def test_the_client_uploads_a_file_once(client: Client, served: Served, tmp_path: Path) -> None:
    file = tmp_path / "random.bin"
    file.write_bytes(os.urandom(3_000_000))
    ref = client.upload_file(file)
    assert (ref.path, ref.size) == ("random.bin", 3_000_000)
    stored = served.node.blobs.path(ref.digest)
    before = stored.stat().st_ino
    assert client.upload_file(file, "other").digest == ref.digest
    assert served.node.blobs.path(ref.digest).stat().st_ino == before


def test_a_large_file_passes_through_neither_memory_as_a_whole(client: Client, tmp_path: Path) -> None:
    file, back = tmp_path / "large.bin", tmp_path / "back.bin"
    with file.open("wb") as target:
        for _ in range(64):
            target.write(os.urandom(1 << 20))
    tracemalloc.start()
    try:
        ref = client.upload_file(file)
        client.download(ref.digest, back)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert back.stat().st_size == 64 << 20
    assert peak < 24 << 20, "client and node share this process: both together stay far below the file's size"


def test_a_download_that_is_not_the_blob_leaves_no_file(client: Client, served: Served, tmp_path: Path) -> None:
    digest, _ = client.upload([b"some", b"thing"])
    stored = served.node.blobs.path(digest)
    stored.chmod(0o644)
    stored.write_bytes(b"tampered!")
    with pytest.raises(BlobMismatch):
        client.download(digest, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    stored.unlink()


def test_what_cannot_be_read_is_said_so(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "fifo", "."):
        with pytest.raises(SourceNotFound, match="no file"):
            client.upload_file(tmp_path / name)
    with pytest.raises(NotFound):
        client.download("0" * 64, tmp_path / "file")
