"""`moorage doctor` says what this machine can enforce, by trying."""

import os
import shutil
from pathlib import Path

import pytest

from moorage.errors import SandboxUnavailable
from moorage.sandbox.base import Sandbox
from moorage.sandbox.opening import open_sandboxes
from moorage.sandbox.probe import probe
from tests.docker_engine import Engine
from tests.sandboxing import sh

pytestmark = pytest.mark.anyio


async def test_what_it_says_agrees_with_what_the_sandbox_does(tmp_path: Path) -> None:
    checks = {check.name: check for check in await probe(tmp_path / "data")}
    opened = (await open_sandboxes(data_dir=tmp_path, run_dir=tmp_path / "run"))["bubblewrap"]
    try:
        inside = (await sh(opened, "grep Seccomp: /proc/self/status")).stdout
        connected = await can_connect(opened)
    finally:
        await opened.close()
    assert checks["namespaces"].ok
    assert checks["bubblewrap"].ok
    assert checks["network.internet"].ok == connected
    assert checks["seccomp"].ok == inside.endswith(b"2\n")
    assert {name for name in ("memory", "pids", "cpu") if checks[f"cgroup.{name}"].ok} == opened.cgroups.enforced
    assert str(os.geteuid()) in checks["user"].message or "root" in checks["user"].message


async def test_everything_that_is_missing_says_how_to_mend_it(tmp_path: Path) -> None:
    checks = await probe(tmp_path)
    assert [check.name for check in checks if not check.ok and not (check.message and check.fix)] == []
    assert all(check.ok or not check.required for check in checks)


async def test_without_bubblewrap_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(a_path_without("bwrap", tmp_path)))
    checks = {check.name: check for check in await probe(tmp_path)}
    assert (checks["bubblewrap"].ok, checks["bubblewrap"].required) == (False, True)
    assert checks["bubblewrap"].fix == "apt install bubblewrap"
    assert not checks["namespaces"].ok
    assert (checks["network.internet"].ok, checks["network.internet"].required) == (False, False)
    assert "apt install slirp4netns" in (checks["network.internet"].fix or "")


async def test_without_a_container_engine_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    (check,) = [check for check in await probe(tmp_path) if check.name == "docker"]
    assert (check.ok, check.required) == (False, False)
    assert f"{tmp_path}/none.sock" in check.message
    assert "apt install docker.io" in (check.fix or "")


async def test_a_container_engine_is_named(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    (check,) = [check for check in await probe(tmp_path) if check.name == "docker"]
    assert check.ok
    assert engine.get("/version")["Version"] in check.message
    assert engine.get("/info")["Driver"] in check.message


async def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    await probe(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def can_connect(sandbox: Sandbox) -> bool:
    try:
        return (await sh(sandbox, "test -d /proc/sys/net/ipv4/conf/tap0", network="internet")).exit.status == 0
    except SandboxUnavailable:
        return False


def a_path_without(missing: str, place: Path) -> Path:
    directory = place / "bin"
    directory.mkdir()
    for name in ("cp", "sh", "chown"):
        found = shutil.which(name)
        assert found
        assert name != missing
        (directory / name).symlink_to(found)
    return directory
