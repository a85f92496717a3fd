"""Python environments as layers, with the real uv, the real sandbox and packages of the real index."""

import asyncio
import dataclasses
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uv

from moorage.errors import DiskFull, InstallFailed, NotFound, PythonNotFound
from moorage.layers.interpreters import Interpreter, find_python
from moorage.layers.python import PythonEnvironments, python_runtime
from moorage.layers.trees import Trees
from moorage.sandbox.base import SANDBOX_UID, OutputSink, Process, ProcessSpec, ReadOnly, Sandbox
from moorage.sandbox.opening import open_sandboxes
from tests.small_disk import run_on_small_disk

pytestmark = pytest.mark.anyio

NOWHERE = "http://127.0.0.1:9/simple"
"""An index that nobody serves."""


@dataclass
class Watched:
    """A real sandbox, what uv was asked to do in it, and with which network."""

    sandbox: Sandbox
    name: str = "watched"
    steps: list[str] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)

    async def start(self, spec: ProcessSpec, *, name: str, output: OutputSink) -> Process:
        self.steps.append(spec.argv[1] if spec.argv[1] != "pip" else spec.argv[2])
        self.networks.append(spec.network)
        return await self.sandbox.start(spec, name=name, output=output)

    async def reap(self) -> int:
        return await self.sandbox.reap()

    async def close(self) -> None:
        await self.sandbox.close()


@dataclass
class Bench:
    """Layers in a directory of their own, and a sandbox to build and run in."""

    root: Path
    sandbox: Watched
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layers = self.root / "layers"
        self.trees = Trees(self.layers, owner=SANDBOX_UID if os.geteuid() == 0 else None)
        self.pythons = PythonEnvironments(self.layers, self.sandbox)

    async def ensure(self, files: dict[str, str | bytes], requirements: str | None = "requirements.txt") -> str:
        """Store an app of these files and ask for its environment."""
        source = self.root / f"source-{len(list(self.root.iterdir()))}"
        for name, content in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content.encode() if isinstance(content, str) else content)
        self.tree = await self.trees.add(source)
        return await self.pythons.ensure(
            version="3.11",
            requirements=requirements,
            tree=self.trees.path(self.tree.name),
            tree_digest=self.tree.digest,
            progress=self.lines.append,
        )

    async def run(self, layer: str, code: str) -> str:
        """Run Python code in the environment, without network, and return what it prints."""
        runtime = python_runtime(self.pythons.path(layer))
        app = ReadOnly(source=self.trees.path(self.tree.name), target="/app")
        printed: list[bytes] = []
        spec = ProcessSpec(
            argv=(runtime.python, "-c", code), cwd="/app", env={"PATH": runtime.bin}, mounts=(*runtime.mounts, app)
        )
        process = await self.sandbox.start(spec, name="run", output=lambda _, data: printed.append(data))
        ended = await process.wait()
        assert ended.status == 0, b"".join(printed)
        return b"".join(printed).decode().strip()

    def built(self) -> int:
        """Tell how many environments were begun."""
        return self.sandbox.steps.count("venv")

    def left(self) -> tuple[int, list[str]]:
        """Tell how many layers are published, and what lies in the building place."""
        return len(list(self.layers.glob("python-*"))), [p.name for p in (self.layers / ".python/building").iterdir()]


@pytest.fixture(scope="session")
def index() -> None:
    """Skip where no package index can be reached."""
    command = [uv.find_uv_bin(), "pip", "compile", "--no-cache", "--no-config", "--python", sys.executable, "-"]
    done = subprocess.run(command, input=b"idna", capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no package index can be reached: {done.stderr.decode()[-200:]}")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    sandboxes = await open_sandboxes(data_dir=tmp_path, run_dir=tmp_path / "run")
    try:
        yield Bench(tmp_path, Watched(sandboxes["bubblewrap"]))
    finally:
        await sandboxes["bubblewrap"].close()


def wheel(name: str, content: str) -> bytes:
    """Make a wheel with one module."""
    path = Path(f"/proc/self/fd/{os.memfd_create('wheel')}")
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    data = path.read_bytes()
    os.close(int(path.name))
    return data


def project(setup: str = "") -> dict[str, str | bytes]:
    """Make a source package that needs nothing of an index to be built: its build backend is its own."""
    backend = f"""
import base64, os, sys
def build_wheel(directory, config_settings=None, metadata_directory=None):
    {setup or "pass"}
    with open(directory + "/mine-1.0-py3-none-any.whl", "wb") as file:
        file.write(base64.b64decode({__import__("base64").b64encode(wheel("mine", "VALUE = 7"))!r}))
    return "mine-1.0-py3-none-any.whl"
build_editable = build_wheel
"""
    toml = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    static = '[project]\nname = "mine"\nversion = "1.0"\n'
    return {"mine/pyproject.toml": toml + static, "mine/backend.py": backend, "requirements.txt": "./mine\n"}


# the bare environment


@pytest.mark.parametrize("prefix", [sys.base_prefix, "/usr"])
async def test_an_app_without_requirements_gets_python_with_pip_and_setuptools_and_needs_no_index(
    bench: Bench, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path(prefix, "bin/python3.11").exists():
        pytest.skip(f"there is no Python 3.11 in {prefix}")
    monkeypatch.setattr(sys, "base_prefix", prefix)
    brings_pip = (await find_python("3.11")).wheels is not None
    if brings_pip:
        monkeypatch.setenv("UV_DEFAULT_INDEX", NOWHERE)
    layer = await bench.ensure({"main.py": ""}, None)
    assert bench.sandbox.networks == ["none", "none" if brings_pip else "machines"]
    code = "import sys, setuptools, pkg_resources; print(sys.version_info[:2], sys.executable, sys.base_prefix)"
    real = str(Path(prefix).resolve())
    assert await bench.run(layer, code) == f"(3, 11) /opt/env/bin/python {real}"
    assert await bench.run(layer, "import pip; print(pip.__file__.startswith('/opt/env/lib/'))") == "True"
    assert await bench.run(layer, "import sys; print([p for p in sys.path if 'dist-packages' in p])") == "[]"
    assert await bench.ensure({"main.py": "other"}, None) == layer
    assert bench.built() == 1


@pytest.mark.usefixtures("index")
async def test_where_python_brings_no_pip_along_it_comes_from_the_index(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find_without_wheels(version: str) -> Interpreter:
        return dataclasses.replace(await find_python(version), wheels=None)

    monkeypatch.setattr("moorage.layers.python.find_python", find_without_wheels)
    layer = await bench.ensure({"main.py": ""}, None)
    assert await bench.run(layer, "import pip, pkg_resources; print('both')") == "both"


async def test_a_python_that_is_not_here_is_said_so() -> None:
    with pytest.raises(PythonNotFound, match=r"3\.99"):
        await find_python("3.99")


# requirements


@pytest.mark.usefixtures("index")
async def test_packages_are_installed_read_only_and_shared_by_apps_with_the_same_requirements(bench: Bench) -> None:
    first = await bench.ensure({"main.py": "1", "requirements.txt": "idna==3.10\n"})
    assert await bench.run(first, "import idna; print(idna.__version__, idna.__file__)") == (
        "3.10 /opt/env/lib/python3.11/site-packages/idna/__init__.py"
    )
    write = "import idna, os; print(os.access(idna.__file__, os.W_OK), os.access('/opt/env/bin', os.W_OK))"
    assert await bench.run(first, write) == "False False"
    second = await bench.ensure({"main.py": "2", "requirements.txt": "idna==3.10\n"})
    assert second == first
    third = await bench.ensure(
        {"main.py": "3", "requirements.txt": "# another text, the same lock\nidna>=3.10,<3.11\n"}
    )
    assert third == first
    assert bench.built() == 1
    other = await bench.ensure({"main.py": "1", "requirements.txt": "idna==3.9\n"})
    assert other != first
    assert bench.left() == (2, [])


@pytest.mark.usefixtures("index")
async def test_ten_that_ask_at_once_share_one_build_and_all_see_it_progress(bench: Bench) -> None:
    files: dict[str, str | bytes] = {"requirements.txt": "idna==3.10\n"}
    sources = [{"main.py": str(number), **files} for number in range(10)]
    trees = []
    for number, source in enumerate(sources):
        folder = bench.root / f"s{number}"
        folder.mkdir()
        for name, content in source.items():
            (folder / name).write_text(str(content))
        trees.append(await bench.trees.add(folder))
    heard: list[list[str]] = [[] for _ in trees]
    names = await asyncio.gather(
        *(
            bench.pythons.ensure(
                version="3.11",
                requirements="requirements.txt",
                tree=bench.trees.path(tree.name),
                tree_digest=tree.digest,
                progress=lines.append,
            )
            for tree, lines in zip(trees, heard, strict=True)
        )
    )
    assert len(set(names)) == 1
    assert all(any("idna==3.10" in line for line in lines) for lines in heard)
    assert bench.sandbox.steps == ["compile", "venv", "install", "install"]
    assert bench.left() == (1, [])


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("idna==99999\n", "idna==99999"),
        ("no-such-package-of-moorage-tests==1\n", "no-such-package-of-moorage-tests"),
        ("idna>==3\n", "no such comparison operator"),
        ("idna<3\nidna>3\n", "unsatisfiable"),
        ("-r missing.txt\n", "missing.txt"),
    ],
)
async def test_requirements_that_do_not_resolve_fail_with_uvs_own_message_and_leave_nothing(
    bench: Bench, text: str, match: str
) -> None:
    with pytest.raises(InstallFailed, match=match) as caught:
        await bench.ensure({"requirements.txt": text})
    assert not caught.value.retryable
    assert match in Path(caught.value.detail["log"]).read_text()
    assert str(bench.root) not in caught.value.message
    assert bench.left() == (0, [])


@pytest.mark.usefixtures("index")
async def test_settings_that_an_app_brings_for_uv_are_not_obeyed(bench: Bench) -> None:
    files: dict[str, str | bytes] = {
        "requirements.txt": "idna==3.10\n",
        "uv.toml": f'index-url = "{NOWHERE}"\n',
        "pyproject.toml": f'[tool.uv]\nindex-url = "{NOWHERE}"\n',
    }
    plain = await bench.ensure({"requirements.txt": "idna==3.10\n"})
    assert await bench.ensure(files) == plain


# content of the app itself


async def test_a_local_wheel_is_installed_and_never_served_stale(bench: Bench) -> None:
    files: dict[str, str | bytes] = {"requirements.txt": "./dist/mine-1.0-py3-none-any.whl\n"}
    name = "dist/mine-1.0-py3-none-any.whl"
    one = await bench.ensure({**files, name: wheel("mine", "VALUE = 1")})
    assert await bench.run(one, "import mine; print(mine.VALUE)") == "1"
    two = await bench.ensure({**files, name: wheel("mine", "VALUE = 2")})
    assert two != one
    assert await bench.run(two, "import mine; print(mine.VALUE)") == "2"


@pytest.mark.usefixtures("index")
async def test_an_editable_install_of_the_app_finds_its_files_and_is_never_served_stale(bench: Bench) -> None:
    pyproject = '[project]\nname = "mine"\nversion = "1"\n[tool.setuptools]\npackages = ["mine"]\n'
    files: dict[str, str | bytes] = {"pyproject.toml": pyproject, "requirements.txt": "-e .\nidna==3.10\n"}
    one = await bench.ensure({**files, "mine/__init__.py": "VALUE = 1"})
    assert await bench.run(one, "import os; os.chdir('/'); import mine, idna; print(mine.VALUE)") == "1"
    two = await bench.ensure({**files, "mine/__init__.py": "VALUE = 2"})
    assert two != one
    assert await bench.run(two, "import os; os.chdir('/'); import mine; print(mine.VALUE)") == "2"


async def test_requirements_in_another_file_are_followed(bench: Bench) -> None:
    files: dict[str, str | bytes] = {
        "requirements.txt": "-r deps/more.txt\n",
        "deps/more.txt": "./w/mine-1.0-py3-none-any.whl\n",
    }
    layer = await bench.ensure({**files, "w/mine-1.0-py3-none-any.whl": wheel("mine", "VALUE = 3")})
    assert await bench.run(layer, "import mine; print(mine.VALUE)") == "3"


# code that runs while it is built


async def test_a_package_that_is_built_from_source_sees_no_secret_and_no_host_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_NODE", "hunter2")
    host = bench.root / "host-file"
    host.write_text("secret")
    check = f"assert 'hunter2' not in str(os.environ) and not os.path.exists({str(host)!r}) and os.getuid() != 0"
    layer = await bench.ensure(project(check))
    assert await bench.run(layer, "import mine; print(mine.VALUE)") == "7"


async def test_a_package_that_fails_to_build_is_told_with_its_own_words(bench: Bench) -> None:
    with pytest.raises(InstallFailed, match="the compiler is missing") as caught:
        await bench.ensure(project("raise SystemExit('the compiler is missing')"))
    assert "the compiler is missing" in Path(caught.value.detail["log"]).read_text()
    assert bench.left() == (0, [])


@pytest.mark.parametrize(
    "trick",
    [
        "os.path.isdir('/opt/env') and (os.rename('/opt/env', '/opt/old'), os.symlink('/', '/opt/env'))",
        "os.path.isdir('/opt/env') and os.rename('/opt/env', '/opt/old')",
    ],
)
async def test_a_package_that_swaps_the_environment_for_a_link_out_is_not_published(bench: Bench, trick: str) -> None:
    with pytest.raises(InstallFailed):
        await bench.ensure(project(trick))
    assert bench.left() == (0, [])


async def test_nothing_that_a_package_brings_is_in_the_base_of_a_warm_interpreter(bench: Bench) -> None:
    plant = "os.path.isdir('/opt/env') and open('/opt/env/lib/python3.11/site-packages/!x.pth', 'w').write('import os')"
    env = bench.pythons.path(await bench.ensure(project(plant)))
    packages = "lib/python3.11/site-packages"
    assert (env / packages / "!x.pth").exists()
    assert not (env / packages / "moorage.pth").exists()
    assert [path.name for path in (env.with_name("base") / packages).iterdir()] == ["moorage.pth"]
    assert python_runtime(env).interpreter[0].source == env.with_name("base")


RENAME = """\
(os.rename('/opt/env/bin/python', '/opt/env/bin/old'),
 os.symlink('/..' + os.readlink('/opt/env/bin/old'), '/opt/env/bin/python'))"""


@pytest.mark.parametrize(
    "alteration",
    [
        "open('/opt/env/pyvenv.cfg', 'a').write('include-system-site-packages = true')",
        RENAME,
        "open('/opt/env/bin/pyvenv.cfg', 'w')",
        "(os.rename('/opt/env/pyvenv.cfg', '/opt/env/cfg'), os.symlink('cfg', '/opt/env/pyvenv.cfg'))",
    ],
)
async def test_an_environment_that_starts_in_its_own_way_is_not_kept_warm(bench: Bench, alteration: str) -> None:
    env = bench.pythons.path(await bench.ensure(project(f"os.path.isdir('/opt/env') and {alteration}")))
    assert python_runtime(env).interpreter == ()


async def test_what_a_package_makes_hard_to_remove_is_removed(bench: Bench) -> None:
    closed = "os.makedirs('/opt/tmp/closed/inner'); os.chmod('/opt/tmp/closed', 0); raise SystemExit('enough')"
    with pytest.raises(InstallFailed, match="enough"):
        await bench.ensure(project(closed))
    assert bench.left() == (0, [])


# trouble


async def test_trouble_with_the_network_is_tried_three_times_and_may_be_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorage.layers.python.PAUSES", (0.0, 0.0))
    monkeypatch.setenv("UV_DEFAULT_INDEX", NOWHERE)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(InstallFailed) as caught:
        await bench.ensure({"requirements.txt": "idna\n"})
    assert caught.value.retryable
    assert bench.sandbox.steps == ["compile"] * 3
    assert sum("trying again" in line for line in bench.lines) == 2
    assert bench.left() == (0, [])


async def test_a_build_that_nobody_waits_for_any_more_is_stopped_and_cleared_away(bench: Bench) -> None:
    build = asyncio.create_task(bench.ensure(project("import time; time.sleep(600)")))
    while not any((bench.layers / ".python/building").glob("*/place/cache")):
        await asyncio.sleep(0.02)
        assert not build.done()
    build.cancel()
    with pytest.raises(asyncio.CancelledError):
        await build
    assert bench.left() == (0, [])


async def test_what_a_crashed_node_left_half_built_is_removed_and_the_rest_is_kept(bench: Bench) -> None:
    layer = await bench.ensure({"main.py": ""}, None)
    half = bench.layers / ".python/building/half/place/env"
    half.mkdir(parents=True)
    again = PythonEnvironments(bench.layers, bench.sandbox)
    assert bench.left() == (1, [])
    assert again.path(layer) == bench.pythons.path(layer)


@pytest.mark.parametrize("name", ["python-" + "0" * 64, "../x", ".python", "", "tree-" + "0" * 64])
async def test_what_is_no_environment_is_not_found(bench: Bench, name: str) -> None:
    with pytest.raises(NotFound):
        bench.pythons.path(name)


async def on_a_full_disk(disk: Path) -> None:
    sandboxes = await open_sandboxes(data_dir=disk, run_dir=disk / "run")
    try:
        bench = Bench(disk, Watched(sandboxes["bubblewrap"]))
        with pytest.raises(DiskFull):
            await bench.ensure({"main.py": ""}, None)
        assert bench.left() == (0, [])
    finally:
        await sandboxes["bubblewrap"].close()


async def test_a_disk_that_fills_up_while_building_is_said_so_and_leaves_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a mount in a namespace of its own needs root here")
    run_on_small_disk(on_a_full_disk, tmp_path / "disk", "6m")
