"""Where a program finds its code and data, and what of it is started: the tables of sections 2.4 and 2.5."""

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from moorage.blobs.local import LocalBlobs
from moorage.errors import BadApp
from moorage.networks.aleph.programs.export import Place, archive
from moorage.networks.aleph.programs.files import Files
from moorage.networks.aleph.programs.layout import Layout, lay_out
from moorage.networks.aleph.programs.volumes import Volumes
from moorage.sandbox.base import Overlay, ReadOnly, Writable
from tests.aleph_files import a_program, a_sandbox, content, deployed, filled, no_run, runs_in, squashfs
from tests.sandboxing import run, spec

pytestmark = pytest.mark.anyio

DATA, PACKAGES = "d" * 64, "e" * 64
SCRIPT = "#!/bin/sh\nexec python3 -m http.server 8080\n"


class Laying:
    """Lays programs out, each as a start of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = LocalBlobs(root / "blobs", owner=None)
        self.files = Files(root / "trees", no_run)
        self.volumes = Volumes(root / "volumes", self.blobs)
        self.instances = 0

    async def out(
        self, given: Path | dict[str, str], /, *, files: dict[str, Path] | None = None, **fields: Any
    ) -> Layout:
        """Lay out a program of an archive or file, or of what is to be one."""
        path = self.packed(given) if isinstance(given, dict) else given
        directory = self.root / f"instance-{self.instances}"
        directory.mkdir()
        self.instances += 1
        deployment = deployed(a_program(**fields), code=path, **(files or {}))
        return await lay_out(deployment, self.files, self.volumes, directory)

    def packed(self, code: dict[str, str]) -> Path:
        path = self.root / f"{len(list(self.root.iterdir()))}.zip"
        with zipfile.ZipFile(path, "w") as file:
            for name, text in code.items():
                file.writestr(name, text)
        return path

    def plain(self, text: str | bytes) -> Path:
        path = self.root / "plain"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path


@pytest.fixture
def laying(tmp_path: Path) -> Laying:
    return Laying(tmp_path)


def lower(layout: Layout) -> dict[str, dict[str, bytes | str | None]]:
    """Give what each overlay of a layout shows at first, by its target."""
    return {mount.target: content(mount.lower[0]) for mount in layout.mounts if isinstance(mount, Overlay)}


def code(encoding: str, entrypoint: str = "main:app", **fields: Any) -> dict[str, Any]:
    return {"encoding": encoding, "entrypoint": entrypoint, **fields}


# ASGI


async def test_a_zip_is_at_opt_and_seen_as_code_too(laying):
    layout = await laying.out({"main.py": "", "packages/lib.py": ""}, code=code("zip"))
    tree = {"main.py": b"", "packages": None, "packages/lib.py": b""}
    assert lower(layout) == {"/opt": tree, "/opt/code": tree}
    assert layout.interface == "asgi"
    assert layout.cwd == "/"
    assert layout.host == {
        "entrypoint": "main:app", "argv": ["main:app"], "module": None, "path": ["/opt", "/opt/code", "/opt/packages"],
    }  # fmt: skip


async def test_a_zip_with_code_of_its_own_keeps_it(laying):
    layout = await laying.out({"code/main.py": ""}, code=code("zip", "code.main:app"))
    assert lower(layout) == {"/opt": {"code": None, "code/main.py": b""}}


@pytest.mark.parametrize("encoding", ["tar.gzip", "squashfs"])
async def test_other_archives_are_at_code(laying, encoding):
    layout = await laying.out({"main.py": ""}, code=code(encoding, args=["--fast"]))
    assert lower(layout) == {"/opt/code": {"main.py": b""}}
    assert layout.host["path"] == ["/opt/code", "/opt/packages"]
    assert layout.host["argv"] == ["main:app", "--fast"]


@pytest.mark.parametrize(
    ("entrypoint", "file"),
    [("main:app", "/opt/code/main.py"), ("web.main:app", "/opt/code/web/main.py")],
)
async def test_plain_code_is_a_module_of_its_name(laying, entrypoint, file):
    layout = await laying.out(laying.plain("app = 1"), code=code("plain", entrypoint))
    (mount,) = layout.mounts
    assert isinstance(mount, ReadOnly)
    assert (mount.target, mount.source.read_text()) == (file, "app = 1")
    assert layout.host["module"] is None


async def test_inline_code_is_plain_code_whose_entrypoint_is_an_attribute(laying):
    layout = await laying.out(
        laying.plain("#!python"), code=code("plain", "application"), generation="draft-1", inline=True
    )
    assert layout.interface == "asgi"
    assert (layout.host["module"], layout.mounts[0].target) == ("main", "/opt/code/main.py")


@pytest.mark.parametrize("entrypoint", ["../../etc/x:app", "/etc/x:app", "..x:app"])
async def test_a_module_leads_nowhere_else(laying, entrypoint):
    with pytest.raises(BadApp, match="leads out"):
        await laying.out(laying.plain("app = 1"), code=code("plain", entrypoint))


@pytest.mark.parametrize(
    ("names", "module"),
    [
        (["main.py", "app.py", "a.py"], "main"),
        (["app.py", "application.py"], "app"),
        (["application.py", "x.py"], "application"),
        (["x.py", "x.txt", "sub/main.py"], "x"),
    ],
)
async def test_a_draft_that_names_no_module_means_a_well_known_or_the_only_one(laying, names, module):
    layout = await laying.out(dict.fromkeys(names, ""), code=code("zip", "application"), generation="draft-2")
    assert (layout.interface, layout.host["module"]) == ("asgi", module)


@pytest.mark.parametrize("names", [["x.py", "y.py"], ["x.txt"]])
async def test_a_draft_without_such_a_module_cannot_start(laying, names):
    with pytest.raises(BadApp, match="names neither"):
        await laying.out(dict.fromkeys(names, ""), code=code("zip", "application"), generation="draft-2")


# Executables


@pytest.mark.parametrize("encoding", ["zip", "squashfs", "tar.gzip"])
async def test_an_executable_is_started_by_its_name_and_can_be(laying, encoding):
    layout = await laying.out({"bin/run": SCRIPT}, code=code(encoding, "bin/run", args=["--a b"]))
    assert layout.interface == "binary"
    assert lower(layout) == {"/opt/code": {"bin": None, "bin/run": SCRIPT.encode()}}
    assert (layout.argv, layout.cwd) == (("/opt/code/bin/run", "--a b"), "/")
    copy = layout.mounts[-1]
    assert isinstance(copy, ReadOnly)
    assert (copy.target, copy.source.read_text()) == ("/opt/code/bin/run", SCRIPT)
    assert copy.source.stat().st_mode & 0o777 == 0o755


async def test_what_is_executable_is_started_as_it_is(laying, tmp_path):
    source = filled(tmp_path / "source", {"run": SCRIPT})
    (source / "run").chmod(0o700)
    made = await archive(source, "tar.gzip", laying.blobs)
    layout = await laying.out(laying.blobs.path(made.digest), code=code("tar.gzip", "./run"))
    assert [mount.target for mount in layout.mounts] == ["/opt/code"]
    assert layout.argv == ("/opt/code/run",)


@pytest.mark.parametrize("name", ["run me --now", "$(x)", "/opt/code/run", "./run"])
async def test_an_exact_name_is_not_split(laying, name):
    layout = await laying.out({Path(name).name: SCRIPT}, code=code("zip", name))
    assert layout.argv == (f"/opt/code/{Path(name).name}",)
    assert layout.cwd == "/"


@pytest.mark.parametrize(
    ("entrypoint", "argv"),
    [
        ("prog --flag 'a b'", ("/opt/code/prog", "--flag", "a b", "arg")),
        ("python serve.py", ("python", "serve.py", "arg")),
        ("/usr/bin/env prog", ("/usr/bin/env", "prog", "arg")),
        ("../prog", ("../prog", "arg")),
    ],
)
async def test_another_entrypoint_is_a_command_run_among_the_code(laying, entrypoint, argv):
    layout = await laying.out({"prog": SCRIPT, "serve.py": ""}, code=code("zip", entrypoint, args=["arg"]))
    assert (layout.argv, layout.cwd) == (argv, "/opt/code")


@pytest.mark.parametrize(("head", "interface"), [(b"#!/bin/sh", "binary"), (b"\x7fELF", "binary"), (b"import", "asgi")])
async def test_plain_code_without_interface_is_what_it_begins_with(laying, head, interface):
    layout = await laying.out(laying.plain(head), code=code("plain", "server"))
    assert layout.interface == interface


async def test_a_plain_executable_has_the_name_of_the_entrypoint(laying):
    layout = await laying.out(laying.plain(SCRIPT), code=code("plain", "run.sh", interface="binary"))
    (mount,) = layout.mounts
    assert isinstance(mount, ReadOnly)
    assert mount.target == "/opt/code/run.sh"
    assert mount.source.stat().st_mode & 0o111
    assert layout.argv == ("/opt/code/run.sh",)
    with pytest.raises(BadApp, match="leads out"):
        await laying.out(laying.plain(SCRIPT), code=code("plain", "../../usr/bin/x", interface="binary"))


async def test_a_draft_whose_entrypoint_names_a_file_is_an_executable(laying):
    layout = await laying.out({"run.sh": SCRIPT, "main.py": ""}, code=code("zip", "run.sh"), generation="draft-2")
    assert (layout.interface, layout.argv) == ("binary", ("/opt/code/run.sh",))


async def test_an_entrypoint_that_is_a_link_is_made_executable_where_it_leads(laying, tmp_path):
    source = filled(tmp_path / "source", {"bin/server": SCRIPT})
    (source / "run").symlink_to("bin/server")
    made = await archive(source, "tar.gzip", laying.blobs)
    layout = await laying.out(laying.blobs.path(made.digest), code=code("tar.gzip", "run"))
    assert layout.argv == ("/opt/code/run",)
    assert layout.mounts[-1].target == "/opt/code/bin/server"


# In the sandbox

PROBE = """
set -e
cat /opt/code/note /opt/packages/seed /data/data /srv/in/data
for place in /opt/code /opt/new /data /srv/in /var/db /tmp/cache /out; do mkdir -p $place; echo 1 > $place/written; done
ls /var/db && ls /out && ls /tmp/cache
touch /opt/packages/no 2>/dev/null || echo read-only
head -c 3000000 /dev/zero > /tmp/cache/large 2>/dev/null || echo full
"""


async def test_a_program_finds_all_that_it_declared(laying, tmp_path):
    files = {DATA: filled(tmp_path, {"one": "data"}) / "one", PACKAGES: laying.packed({"seed": "packages"})}
    volumes = [
        {"ref": PACKAGES, "mount": "/opt/packages"},
        {"name": "db", "size_mib": 5, "mount": "/var/db"},
        {"ephemeral": True, "size_mib": 1, "mount": "/tmp/cache"},
    ]
    layout = await laying.out(
        {"run": f"#!/bin/sh{PROBE}", "note": "code"},
        files=files,
        code=code("zip", "run"),
        data={"encoding": "plain", "mount": "/srv/in", "ref": DATA, "use_latest": False},
        volumes=volumes,
        export={"encoding": "zip", "mount": "/out"},
    )
    async with a_sandbox(tmp_path / "node") as sandbox:
        request = spec(*layout.argv, mounts=layout.mounts, cwd=layout.cwd, root=True)
        ran = await run(sandbox, request)
    assert ran.stderr == b""
    assert ran.stdout.decode() == "codepackagesdatadatawritten\nwritten\nwritten\nread-only\nfull\n"
    assert content(await laying.volumes.open("c" * 64, "db")) == {"written": b"1\n"}
    assert layout.export is not None
    made = await archive(layout.export, "plain", laying.blobs)
    assert laying.blobs.path(made.digest).read_bytes() == b"1\n"


async def test_a_zip_of_an_application_can_be_written_and_has_room_for_packages(laying, tmp_path):
    layout = await laying.out(
        {"main.py": "1", "lib/a": "2"},
        files={PACKAGES: laying.packed({"seed": "3"})},
        code=code("zip"),
        volumes=[
            {"ref": PACKAGES, "mount": "/opt/packages"},
            {"ephemeral": True, "size_mib": 1, "mount": "/opt/code/v"},
        ],
    )
    script = "cd /opt && cat main.py code/lib/a packages/seed && echo x > lib/a && echo x > code/v/b && ls code/v"
    async with a_sandbox(tmp_path / "node") as sandbox:
        ran = await run(sandbox, spec("sh", "-c", script, mounts=layout.mounts, cwd=layout.cwd, root=True))
    assert (ran.stderr, ran.stdout) == (b"", b"123b\n")
    assert lower(layout)["/opt"]["lib/a"] == b"2"


# Data and what is exported


async def laid_data(laying: Laying, **fields: Any) -> Layout:
    path = laying.root / "data"
    path.write_text("1")
    data = {"encoding": "plain", "mount": "/srv/in", "ref": DATA, "use_latest": False}
    fields = {"data": data, **fields}
    return await laying.out(laying.plain("app = 1"), files={DATA: path}, **fields)


async def test_data_is_at_its_mount_and_at_data(laying):
    layout = await laid_data(laying)
    assert lower(layout) == {"/srv/in": {"data": b"1"}, "/data": {"data": b"1"}}
    assert len({mount.upper for mount in layout.mounts if isinstance(mount, Overlay)}) == 2
    assert layout.export is None


@pytest.mark.parametrize("mount", ["/srv/in", "/data", "data/", "/data/out"])
async def test_data_that_is_exported_is_one_copy_at_both_places(laying, mount):
    layout = await laid_data(laying, export={"encoding": "zip", "mount": mount})
    one, other = (each for each in layout.mounts if isinstance(each, Writable))
    assert {one.target, other.target} == {"/srv/in", "/data"}
    assert one.source == other.source
    assert content(one.source) == {"data": b"1"}
    assert layout.export == Place(directory=one.source, below="out" if mount.endswith("out") else "")


async def test_what_is_exported_from_elsewhere_has_a_directory_of_the_instance(laying):
    volume = {"ephemeral": True, "size_mib": 5, "mount": "/out"}
    for volumes in ([], [volume]):
        layout = await laying.out(laying.plain(""), export={"encoding": "zip", "mount": "/out"}, volumes=volumes)
        assert layout.export is not None
        assert layout.mounts[-1] == Writable(source=layout.export.directory, target="/out")
        assert content(layout.export.directory) == {}


async def test_a_persistent_volume_is_exported_where_it_is(laying):
    volume = {"name": "db", "size_mib": 5, "mount": "/var/lib/db"}
    export = {"encoding": "zip", "mount": "/var/lib/db/out"}
    layout = await laying.out(laying.plain(""), export=export, volumes=[volume])
    assert layout.export == Place(directory=await laying.volumes.open("c" * 64, "db"), below="out")


async def test_exported_code_is_a_copy_that_can_be_written(laying):
    layout = await laying.out({"main.py": ""}, code=code("tar.gzip"), export={"encoding": "zip", "mount": "/opt/code"})
    (mount,) = layout.mounts
    assert isinstance(mount, Writable)
    assert content(mount.source) == {"main.py": b""}


async def test_nothing_takes_the_place_of_the_root(laying):
    with pytest.raises(BadApp, match="mounted at"):
        await laying.out(laying.plain(""), volumes=[{"ephemeral": True, "size_mib": 5, "mount": "/"}])
    with pytest.raises(BadApp, match="mounted at"):
        await laying.out(laying.plain(""), export={"encoding": "zip", "mount": "/"})


async def test_a_squashfs_image_is_laid_out(laying, tmp_path):
    image = squashfs(tmp_path / "image", filled(tmp_path / "source", {"run": SCRIPT}))
    async with a_sandbox(tmp_path / "node") as sandbox:
        laying.files = Files(tmp_path / "trees", runs_in(sandbox))
        layout = await laying.out(image, code=code("squashfs", "run"))
    assert layout.argv == ("/opt/code/run",)
    assert os.access(layout.mounts[-1].source, os.X_OK)  # type: ignore[union-attr]
