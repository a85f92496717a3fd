"""Logs keep the first and the last half of a stream, and followers see it grow."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.node.logs import AttemptLog, Spool

pytestmark = pytest.mark.anyio


def whole(spool: Spool) -> bytes:
    text, position = b"", 0
    while True:
        chunk, position = spool.read(position)
        if not chunk:
            return text
        text += chunk


@given(chunks=st.lists(st.binary(max_size=400), max_size=20), half=st.integers(min_value=1, max_value=300))
def test_a_spool_keeps_the_first_and_the_last_half_and_says_how_much_is_missing(tmp_path_factory, chunks, half):
    spool = Spool(tmp_path_factory.mktemp("spool"), "s", 2 * half)
    for chunk in chunks:
        spool.write(chunk)
    text = b"".join(chunks)
    if len(text) <= 2 * half:
        expected = text
    else:
        expected = text[:half] + f"\n[{len(text) - 2 * half} bytes omitted]\n".encode() + text[-half:]
    assert whole(spool) == expected
    spool.close()


def test_a_large_stream_takes_no_more_disk_than_its_cap(tmp_path: Path):
    spool = Spool(tmp_path, "s", 1 << 20)
    for _ in range(64):
        spool.write(b"x" * 100_000)
    assert (tmp_path / "s").stat().st_size == 1 << 20
    spool.close()
    assert not (tmp_path / "s").exists()


async def test_a_follower_sees_both_streams_as_they_grow_and_ends_with_the_attempt(tmp_path: Path):
    log = AttemptLog(tmp_path, 1 << 20)
    seen: list[tuple[str, bytes]] = []

    async def follow() -> None:
        async for stream, chunk in log.follow(("stdout", "stderr"), live=True):
            seen.append((stream, chunk))

    task = asyncio.create_task(follow())
    log.write("stdout", b"one\n")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert seen == [("stdout", b"one\n")]
    log.write("stderr", b"two\n")
    log.end()
    await task
    assert seen == [("stdout", b"one\n"), ("stderr", b"two\n")]
    log.close()


async def test_reading_without_following_gives_what_there_is(tmp_path: Path):
    log = AttemptLog(tmp_path, 1 << 20)
    log.write("stdout", b"so far")
    assert [chunk async for chunk in log.follow(("stdout",), live=False)] == [("stdout", b"so far")]
