"""Volumes: what they begin with, what keeps them, and what bounds them (contract, section 2.5)."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from moorage.blobs.local import LocalBlobs
from moorage.errors import NotFound, VolumeTooSmall
from moorage.model.limits import MIB
from moorage.networks.aleph.programs.files import Files
from moorage.networks.aleph.programs.layout import Layout, lay_out
from moorage.networks.aleph.programs.volumes import Room, Volumes, watched
from moorage.sandbox.base import SANDBOX_UID, Mount, ReadOnly, Scratch, Writable
from moorage.sandbox.disk import usage_of
from tests.aleph_files import a_program, content, deployed, filled, no_run

pytestmark = pytest.mark.anyio

ORIGIN, OTHER = "c" * 64, "d" * 64
PARENT = "e" * 64


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs", owner=None)


@pytest.fixture
def volumes(tmp_path: Path, blobs: LocalBlobs) -> Volumes:
    return Volumes(tmp_path / "volumes", blobs)


async def laid_out(tmp_path: Path, volumes: Volumes, *declared: dict[str, object], **files: Path) -> Layout:
    code = tmp_path / "main.py"
    code.write_text("app = 1")
    directory = tmp_path / f"instance-{len(list(tmp_path.glob('instance-*')))}"
    directory.mkdir()
    deployment = deployed(a_program(volumes=declared), code=code, **files)
    return await lay_out(deployment, Files(tmp_path / "trees", no_run), volumes, directory)


async def mounted(tmp_path: Path, volumes: Volumes, *declared: dict[str, object], **files: Path) -> list[Mount]:
    """Give the mounts of volumes that a program declares."""
    return list((await laid_out(tmp_path, volumes, *declared, **files)).mounts[1:])


def archive_of(source: Path, target: Path) -> Path:
    return Path(shutil.make_archive(str(target), "gztar", source))


# How they are mounted


async def test_an_ephemeral_volume_is_memory_of_its_size(tmp_path, volumes):
    declared = {"ephemeral": True, "size_mib": 5, "mount": "/var/cache"}
    assert await mounted(tmp_path, volumes, declared) == [Scratch(target="/var/cache", size=5 * MIB)]


async def test_volumes_without_mount_or_name_have_default_ones(tmp_path, volumes):
    declared = (
        {"name": "my db!", "size_mib": 5},
        {"persistence": "host", "size_mib": 5},
        {"ephemeral": True, "size_mib": 1},
    )
    mounts = await mounted(tmp_path, volumes, *declared)
    assert [mount.target for mount in mounts] == ["/mnt/my_db_", "/mnt/unamed_volume_1", "/mnt/unamed_volume_2"]
    assert [mount.source.name for mount in mounts[:2] if isinstance(mount, Writable)] == ["my_db_", "unamed_volume_1"]


async def test_an_immutable_volume_is_read_only_whatever_its_file_is(tmp_path, volumes):
    archive = archive_of(filled(tmp_path / "source", {"lib/__init__.py": "x"}), tmp_path / "archive")
    (tmp_path / "model.bin").write_bytes(b"weights")
    declared = ({"ref": PARENT, "mount": "/opt/packages"}, {"ref": OTHER, "mount": "model"})
    packages, model = await mounted(tmp_path, volumes, *declared, **{PARENT: archive, OTHER: tmp_path / "model.bin"})
    assert isinstance(packages, ReadOnly)
    assert content(packages.source) == {"lib": None, "lib/__init__.py": b"x"}
    assert isinstance(model, ReadOnly)
    assert model.target == "/model"
    assert content(model.source) == {"data": b"weights"}


async def test_of_two_volumes_at_one_place_the_last_is_mounted(tmp_path, volumes):
    declared = ({"ephemeral": True, "size_mib": 1, "mount": "/v"}, {"ephemeral": True, "size_mib": 2, "mount": "/v/"})
    assert await mounted(tmp_path, volumes, *declared) == [Scratch(target="/v", size=2 * MIB)]


# What they keep


async def test_a_volume_survives_instances_and_nodes_and_belongs_to_the_original(tmp_path, blobs, volumes):
    (mount,) = await mounted(tmp_path, volumes, {"name": "db", "size_mib": 5})
    assert isinstance(mount, Writable)
    (mount.source / "counter").write_text("1")
    (again,) = await mounted(tmp_path, Volumes(tmp_path / "volumes", blobs), {"name": "db", "size_mib": 9})
    assert again == mount
    assert content(await volumes.open(ORIGIN, "db")) == {"counter": b"1"}
    assert content(await volumes.open(OTHER, "db")) == {}


@pytest.mark.parametrize("name", ["../../etc", ".", "..", "x" * 256, "ü" * 200, ".staging", "a.snapshot"])
async def test_no_name_leads_out_or_is_too_long(tmp_path, volumes, name):
    paths = [await volumes.open(ORIGIN, name), await volumes.open(name, "db")]
    for path in paths:
        assert path.is_dir()
        assert path.parent.parent == tmp_path / "volumes"
        assert path.parent.name != ".staging"


async def test_the_parent_is_copied_once(tmp_path, volumes):
    parent = archive_of(filled(tmp_path / "source", {"a/seed": "1"}), tmp_path / "parent")
    declared = {"name": "db", "size_mib": 5, "parent": {"ref": PARENT}}
    (mount,) = await mounted(tmp_path, volumes, declared, **{PARENT: parent})
    assert isinstance(mount, Writable)
    assert content(mount.source) == {"a": None, "a/seed": b"1"}
    assert (mount.source / "a" / "seed").stat().st_uid == (SANDBOX_UID if os.geteuid() == 0 else os.geteuid())
    (mount.source / "a" / "seed").write_text("2")
    newer = archive_of(filled(tmp_path / "newer", {"b": "3"}), tmp_path / "newer")
    assert await mounted(tmp_path, volumes, declared, **{PARENT: newer}) == [mount]
    assert content(mount.source) == {"a": None, "a/seed": b"2"}


async def test_a_parent_that_is_larger_than_the_volume_is_refused(tmp_path, volumes):
    parent = archive_of(filled(tmp_path / "source", {"seed": os.urandom(2 * MIB)}), tmp_path / "parent")
    declared = {"name": "db", "size_mib": 1, "parent": {"ref": PARENT}}
    with pytest.raises(VolumeTooSmall) as raised:
        await mounted(tmp_path, volumes, declared, **{PARENT: parent})
    detail = raised.value.detail
    assert detail["parent_size"] >= 2 * MIB
    assert {key: detail[key] for key in ("volume_name", "parent_ref", "volume_size")} == {
        "volume_name": "db", "parent_ref": PARENT, "volume_size": MIB,
    }  # fmt: skip
    assert await mounted(tmp_path, volumes, {**declared, "size_mib": 9}, **{PARENT: parent})


async def test_two_versions_that_start_at_once_share_a_new_volume(volumes):
    begun, filling = asyncio.Event(), asyncio.Event()
    fills = []

    async def fill(target: Path) -> None:
        fills.append(target)
        begun.set()
        await filling.wait()
        filled(target, {"seed": "1"})

    work = [asyncio.ensure_future(volumes.open(ORIGIN, "db", fill)) for _ in range(2)]
    await begun.wait()
    assert content(await volumes.open(ORIGIN, "other")) == {}
    filling.set()
    one, two = await asyncio.gather(*work)
    assert one == two
    assert len(fills) == 1
    assert content(one) == {"seed": b"1"}


async def test_a_volume_that_could_not_be_filled_is_not_there(tmp_path, volumes):
    async def fail(target: Path) -> None:
        filled(target, {"half": "1"})
        raise VolumeTooSmall

    with pytest.raises(VolumeTooSmall):
        await volumes.open(ORIGIN, "db", fail)
    assert not list((tmp_path / "volumes" / ".staging").iterdir())
    assert content(await volumes.open(ORIGIN, "db")) == {}


# Snapshots


async def test_a_lost_volume_comes_back_from_its_newest_snapshot(tmp_path, blobs, volumes):
    path = filled(await volumes.open(ORIGIN, "db"), {"a/b": "1", "c": "2"})
    first = await volumes.snapshot(ORIGIN, "db")
    assert first == await volumes.snapshot(ORIGIN, "db")
    filled(path, {"c": "3"})
    second = await volumes.snapshot(ORIGIN, "db")
    assert first is not None
    assert second is not None
    assert first.digest != second.digest
    shutil.rmtree(path)
    volumes = Volumes(tmp_path / "volumes", blobs)
    assert content(await volumes.open(ORIGIN, "db")) == {"a": None, "a/b": b"1", "c": b"3"}


async def test_there_is_no_snapshot_of_a_volume_that_is_not_here(volumes):
    assert await volumes.snapshot(ORIGIN, "db") is None


async def test_a_volume_whose_snapshot_is_lost_does_not_begin_empty(blobs, volumes):
    path = filled(await volumes.open(ORIGIN, "db"), {"a": "1"})
    kept = await volumes.snapshot(ORIGIN, "db")
    assert kept is not None
    shutil.rmtree(path)
    blobs.path(kept.digest).unlink()
    with pytest.raises(NotFound):
        await volumes.open(ORIGIN, "db")


async def test_erased_volumes_begin_anew(tmp_path, volumes):
    for name in ("db", "other"):
        filled(await volumes.open(ORIGIN, name), {"a": "1"})
        await volumes.snapshot(ORIGIN, name)
    filled(await volumes.open(OTHER, "db"), {"a": "1"})
    await volumes.erase(ORIGIN)
    await volumes.erase("f" * 64)
    assert content(await volumes.open(ORIGIN, "db")) == {}
    assert content(await volumes.open(OTHER, "db")) == {"a": b"1"}
    assert not list((tmp_path / "volumes" / ".staging").iterdir())


# Sizes


async def test_volumes_and_the_instance_itself_are_to_be_watched(tmp_path, volumes):
    layout = await laid_out(tmp_path, volumes, {"name": "db", "size_mib": 5}, {"ephemeral": True, "size_mib": 5})
    path = await volumes.open(ORIGIN, "db")
    assert layout.rooms[1:] == (Room(path=path, limit=5 * MIB),)
    assert layout.rooms[0].path == tmp_path / "instance-0"


@pytest.mark.parametrize("before", [0, 3])
async def test_growth_over_the_limit_is_told(tmp_path, monkeypatch, before):
    monkeypatch.setattr("moorage.sandbox.disk.WATCH_EVERY", 0.01)
    filled(tmp_path / "volume", {"before": os.urandom(before * MIB)})
    excess = asyncio.Event()
    async with watched([Room(path=tmp_path / "volume", limit=MIB)], excess.set):
        filled(tmp_path / "volume", {"more": os.urandom(2 * MIB)})
        await asyncio.wait_for(excess.wait(), 10)


async def test_a_volume_that_is_too_large_already_can_be_read_and_emptied(tmp_path, monkeypatch):
    measured = asyncio.Event()

    def measure(path: Path) -> int:
        measured.set()
        return usage_of(path)

    monkeypatch.setattr("moorage.sandbox.disk.WATCH_EVERY", 0.01)
    monkeypatch.setattr("moorage.sandbox.disk.usage_of", measure)
    volume = filled(tmp_path / "volume", {"a": os.urandom(MIB), "b": os.urandom(MIB)})
    excess = asyncio.Event()
    async with watched([Room(path=volume, limit=MIB)], excess.set):
        for _ in range(3):
            (volume / "a").unlink(missing_ok=True)
            measured.clear()
            await asyncio.wait_for(measured.wait(), 10)
        assert not excess.is_set()
