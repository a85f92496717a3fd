"""Volumes of programs on a real node: what survives, what does not, and how much fits (contract, section 2.5)."""

import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moorage.model.limits import MIB
from tests.aleph_node import AlephNode, aleph_node, zipped
from tests.aleph_probe import ASGI, inside, packed

COUNT = """
path = "{place}/count"
count = int(open(path).read()) + 1 if os.path.exists(path) else 1
open(path, "w").write(str(count))
print(count)
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("volumes") / "data", layers=aleph_layers) as running:
        yield running


def stop(node: AlephNode, program: str) -> None:
    instance = node.instance(program)
    assert node.served.portal.call(node.surface.services.stop, instance.spec.key)


def count(node: AlephNode, program: str, place: str) -> str:
    return inside(node, program, COUNT.format(place=place))


def test_an_immutable_volume_is_read_only_and_follows_its_updates(node: AlephNode) -> None:
    ref = node.file(packed({"a/b.txt": "old"}, "squashfs"))
    program = node.deploy(ASGI, volumes=[{"ref": ref, "mount": "/var/lib/models"}])
    look = "print(open('/var/lib/models/a/b.txt').read())"
    assert inside(node, program, look) == "old"
    change = "open('/var/lib/models/a/b.txt', 'w')"
    assert "Read-only file system" in inside(node, program, change)
    node.file(packed({"a/b.txt": "new"}, "squashfs"), ref=ref)
    assert inside(node, program, look) == "new"


def test_an_ephemeral_volume_is_writable_limited_and_empty_at_every_start(node: AlephNode) -> None:
    program = node.deploy(ASGI, volumes=[{"ephemeral": True, "size_mib": 2, "mount": "/tmp/cache"}])
    assert [count(node, program, "/tmp/cache") for _ in range(2)] == ["1", "2"]
    assert "No space left" in inside(node, program, "open('/tmp/cache/large', 'wb').write(bytes(3 << 20))")
    stop(node, program)
    assert count(node, program, "/tmp/cache") == "1"


def test_a_persistent_volume_is_the_programs_own_and_survives_its_instance(node: AlephNode) -> None:
    volumes = [{"name": "db", "size_mib": 5, "mount": "/var/lib/db", "persistence": "host"}]
    one, other = (node.deploy(ASGI, volumes=volumes) for _ in range(2))
    assert [count(node, one, "/var/lib/db"), count(node, other, "/var/lib/db")] == ["1", "1"]
    stop(node, one)
    assert count(node, one, "/var/lib/db") == "2"


def test_a_persistent_volume_survives_the_node(tmp_path: Path, aleph_layers: Path) -> None:
    with aleph_node(tmp_path / "data", layers=aleph_layers) as before:
        program = before.deploy(ASGI, volumes=[{"name": "db", "size_mib": 5, "mount": "/var/lib/db"}])
        assert count(before, program, "/var/lib/db") == "1"
    with aleph_node(tmp_path / "data") as after:
        assert count(after, program, "/var/lib/db") == "2"


def test_a_program_that_fills_its_volume_is_ended_and_its_log_says_so(node: AlephNode) -> None:
    program = node.deploy(ASGI, volumes=[{"name": "db", "size_mib": 1, "mount": "/var/lib/db"}])
    assert count(node, program, "/var/lib/db") == "1"
    fill = "open('/var/lib/db/large', 'wb').write(bytes(3 << 20)); time.sleep(15)"
    assert node.client.post(f"/vm/{program}/", content=fill).status_code == 502
    assert any("beyond what it may" in line.text for line in node.log(program))
    assert inside(node, program, "os.remove('/var/lib/db/large'); print('emptied')") == "emptied"
    assert count(node, program, "/var/lib/db") == "2"


def test_a_stored_volume_is_restored_where_the_node_has_lost_it(node: AlephNode) -> None:
    program = node.deploy(ASGI, volumes=[{"name": "db", "size_mib": 5, "mount": "/var/lib/db", "persistence": "store"}])
    assert count(node, program, "/var/lib/db") == "1"
    stop(node, program)
    path: Path = node.served.portal.call(node.surface.volumes.open, program, "db")
    shutil.rmtree(path)
    assert count(node, program, "/var/lib/db") == "2"


def test_volumes_without_mount_or_name_have_those_of_the_network(node: AlephNode) -> None:
    volumes: list[dict[str, Any]] = [
        {"size_mib": 5},
        {"name": "my db/1", "size_mib": 5, "comment": "do not mount"},
        {"size_mib": 5, "persistence": None},
        {"ref": node.file(packed({"seed": ""}, "zip"))},
    ]
    program = node.deploy(ASGI, volumes=volumes)
    assert inside(node, program, "print(sorted(os.listdir('/mnt')), os.listdir('/mnt/unamed_volume_3'))") == (
        "['my_db_1', 'unamed_volume_0', 'unamed_volume_2', 'unamed_volume_3'] ['seed']"
    )


@pytest.mark.parametrize("encoding", ["squashfs", "zip", "tar.gzip"])
def test_a_new_volume_begins_with_its_parent_once(node: AlephNode, encoding: str) -> None:
    parent = node.file(packed({"sub/count": "41"}, encoding))
    volume = {"name": "db", "size_mib": 5, "mount": "/var/lib/db", "parent": {"ref": parent, "use_latest": True}}
    program = node.deploy(ASGI, volumes=[volume])
    assert count(node, program, "/var/lib/db/sub") == "42"
    node.file(packed({"sub/count": "7"}, encoding), ref=parent)
    assert count(node, program, "/var/lib/db/sub") == "43"


def test_a_parent_that_is_too_large_is_refused(node: AlephNode) -> None:
    noise = os.urandom(2 * MIB)
    parent = node.file(noise)
    volume = {"name": "db", "size_mib": 1, "parent": {"ref": parent, "use_latest": True}}
    message = node.wallet.program(node.file(ASGI.encode()), time=node.now(), volumes=[volume])
    node.publish(message, expect=422)
    told = node.client.get(f"/api/v0/messages/{message['item_hash']}").json()
    assert told["error_code"] == 304
    (facts,) = told["details"]["errors"]
    assert facts.pop("parent_file")
    assert facts == {"volume_name": "db", "parent_ref": parent, "parent_size": 2 * MIB, "volume_size": MIB}


def test_a_parent_that_unpacks_to_too_much_keeps_the_program_from_starting(node: AlephNode) -> None:
    parent = node.file(packed({"zeros": bytes(2 * MIB)}, "tar.gzip"))
    volume = {"name": "db", "size_mib": 1, "parent": {"ref": parent, "use_latest": True}}
    program = node.deploy(ASGI, volumes=[volume])
    answer = node.get(program)
    assert (answer.status_code, answer.json()) == (500, {"error": "500: Error during vm initialisation"})
    assert any("its parent has" in line.text for line in node.log(program))


# archives that mean harm


def hostile() -> dict[str, bytes]:
    """Give archives that would write elsewhere, lead elsewhere or never end, by what they do."""
    link = io.BytesIO()
    with tarfile.open(fileobj=link, mode="w:gz") as archive:
        info = tarfile.TarInfo("main.py")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    device = io.BytesIO()
    with tarfile.open(fileobj=device, mode="w:gz") as archive:
        info = tarfile.TarInfo("main.py")
        info.type, info.devmajor, info.devminor = tarfile.BLKTYPE, 8, 0
        archive.addfile(info)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed_zip, packed_zip.open("main.py", "w") as file:
        for _ in range(300):
            file.write(bytes(MIB))
    return {
        "traversal": zipped({"../../escaped.py": "x = 1", "main.py": ASGI}),
        "absolute": zipped({"/tmp/escaped.py": "x = 1", "main.py": ASGI}),
        "link": link.getvalue(),
        "device": device.getvalue(),
        "bomb": bomb.getvalue(),
        "cut off": zipped({"main.py": ASGI})[:-30],
        "noise": os.urandom(1000),
    }


@pytest.mark.parametrize("kind", ["code", "data", "volume"])
def test_no_archive_writes_outside_or_takes_the_node_down(node: AlephNode, kind: str) -> None:
    for what, archive in hostile().items():
        encoding = "zip" if archive.startswith(b"PK") else "tar.gzip"
        if kind == "code":
            program = node.deploy(archive, encoding=encoding)
        elif kind == "data":
            data = {"encoding": encoding, "mount": "/in", "ref": node.file(archive), "use_latest": False}
            program = node.deploy(ASGI, data=data)
        elif what in {"noise", "cut off"}:
            continue  # a volume of what is no archive is a plain file
        else:
            program = node.deploy(ASGI, volumes=[{"ref": node.file(archive), "mount": "/in"}])
        answer = node.get(program)
        assert (answer.status_code, answer.json()) == (500, {"error": "500: Error during vm initialisation"}), what
        assert [line for line in node.log(program) if line.source == "system"], what
    data_dir = node.served.node.config.data_dir
    assert not [*data_dir.rglob("escaped.py")]
    assert not Path("/tmp/escaped.py").exists()
    assert inside(node, node.deploy(ASGI), "print('alive')") == "alive"
