"""One node holds a data directory, and says where it answers."""

import subprocess
import sys
from pathlib import Path

import pytest

from moorage.errors import DataDirectoryBusy, StoreUnavailable
from moorage.node.directory import DataDirectory


def test_a_second_node_is_refused_and_told_who_holds_the_directory(tmp_path: Path):
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    with directory.hold():
        assert directory.held()
        directory.announce(url="http://127.0.0.1:4000", socket=directory.socket)
        with pytest.raises(DataDirectoryBusy, match=r"process \d+, http://127.0.0.1:4000"), directory.hold():
            pass
    assert not directory.held()
    assert directory.presence() is None


def test_the_kernel_lets_go_of_the_directory_when_its_node_is_killed(tmp_path: Path):
    directory = DataDirectory(tmp_path)
    directory.make()
    code = (
        "import sys, time, pathlib; from moorage.node.directory import DataDirectory\n"
        "with DataDirectory(pathlib.Path(sys.argv[1])).hold():\n print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == b"held\n"
        assert directory.held()
        node.kill()
        node.wait()
    assert not directory.held()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="file/data"):
        DataDirectory(tmp_path / "file" / "data").make()
