"""How every command ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moorage import __version__
from moorage.cli import main
from moorage.cli.main import COMMANDS, run
from moorage.errors import JobCrashed, NodeUnreachable, NotFound


@pytest.mark.parametrize(
    "tokens",
    [["rnu"], ["run"], ["run", "x", "--inptu", "y"], ["run", "x", "--timeout", "soon"], ["completion", "tcsh"]],
)
def test_a_command_that_is_not_understood_ends_with_2_and_one_block_on_stderr(
    tokens: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tokens) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint", "code"]
    assert "Traceback" not in err


def test_a_mistyped_flag_is_answered_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    run(["run", "x", "--inptu", "y"])
    err = capsys.readouterr().err
    assert "--input" in err
    assert "moorage run --help" in err


@pytest.mark.parametrize(("error", "status"), [(JobCrashed(), 1), (NotFound("no job"), 2), (NodeUnreachable(), 3)])
def test_an_error_ends_the_command_with_its_exit_status(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "app", _raising(error))
    assert run([]) == status
    assert str(error) in capsys.readouterr().err


def test_with_json_an_error_is_a_document_on_stdout_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "app", _raising(NotFound("There is no job x.")))
    run(["job", "show", "x", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["code"] == "not_found"
    assert document["error"]["message"] == "There is no job x."
    assert document["error"]["hint"]


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "app", _raising(KeyboardInterrupt()))
    assert run([]) == 130


def test_a_defect_of_ours_is_a_block_that_names_a_file_with_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(main, "app", _raising(ZeroDivisionError("division by zero")))
    assert run([]) == 3
    err = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in err
    assert "Traceback" not in err
    assert "Traceback" in Path(err.split("report it with ")[1].split(".txt")[0] + ".txt").read_text()


def test_the_root_command_names_every_command_without_importing_them() -> None:
    script = (
        "import sys; from moorage.cli.main import run; run(['--help']); "
        "sys.exit(any(name in sys.modules for name in ('fastapi', 'httpx', 'pydantic', 'moorage.cli.run')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f" {name} " in done.stdout for name in COMMANDS)


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = "from moorage.cli.main import run; import sys; sys.exit(run(['completion', 'bash']))"
    done = subprocess.run(
        f"{sys.executable} -c \"{script}\" | head -c 1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_script_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"moorage {__version__}\n"


def _raising(error: BaseException) -> object:
    def app(*_: object, **__: object) -> None:
        raise error

    return app
