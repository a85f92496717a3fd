"""`moorage run` as a person uses it: real processes, a real node, real bubblewrap."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MOORAGE = str(Path(sys.executable).with_name("moorage"))
EXAMPLE = Path(__file__).parents[2] / "examples" / "infrax" / "contact-sheet"

HEARING = ("env", "--default-signal=INT")
"""What a shell starts in the background ignores interrupts, and so does everything below it, such as this suite."""

Command = Callable[..., "subprocess.CompletedProcess[str]"]

COPY = """
import json, shutil, sys
from pathlib import Path
arguments = json.load(sys.stdin)
for file in sorted(Path("input").rglob("*")):
    if file.is_file():
        target = Path("output") / file.relative_to("input")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
print("arguments", arguments)
print("warned", file=sys.stderr)
"""
BLOCK = """
import time
print("started", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data directory for all, so that the Python environment is built once."""
    return tmp_path_factory.mktemp("cli")


@pytest.fixture
def env(data_dir: Path) -> dict[str, str]:
    return {**os.environ, "MOORAGE_DATA_DIR": str(data_dir), "MOORAGE_URL": ""}


@pytest.fixture
def moorage(env: dict[str, str], tmp_path: Path) -> Command:
    def command(*words: object, **more: str) -> "subprocess.CompletedProcess[str]":
        command = [MOORAGE, *map(str, words)]
        return subprocess.run(
            command, env=env | more, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )

    return command


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Path]:
    def make(main: str, name: str = "copy") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "main.py").write_text(main)
        return folder

    return make


@pytest.fixture
def blocked(env: dict[str, str], tmp_path: Path, source: Callable[..., Path]) -> Iterator["subprocess.Popen[str]"]:
    """A run whose app has printed its first line and goes on."""
    command = [*HEARING, MOORAGE, "run", str(source(BLOCK, "block"))]
    with subprocess.Popen(
        command, env=env, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def test_the_example_runs_on_its_files_and_leaves_its_outputs(moorage: Command, tmp_path: Path) -> None:
    done = moorage(
        "run", EXAMPLE, "--input", f"{EXAMPLE}-inputs", "--set", "title=Views", "--set", "columns=2", "--out", "views"
    )
    assert done.returncode == 0, done.stderr
    written = {str(path.relative_to(tmp_path / "views")) for path in (tmp_path / "views").rglob("*") if path.is_file()}
    assert {"contact-sheet.jpg", "report/pictures.json", "report/pictures.csv"} <= written
    pictures = len(list(Path(f"{EXAMPLE}-inputs").iterdir()))
    assert sum(name.startswith("thumbnails/") for name in written) == pictures
    job_id = done.stderr.split("job show ")[1].split()[0]
    listed = json.loads(moorage("job", "outputs", job_id, "--json").stdout)
    assert {file["path"]: file["digest"] for file in listed} == {
        name: hashlib.sha256((tmp_path / "views" / name).read_bytes()).hexdigest() for name in written
    }


def test_files_arguments_and_streams_go_in_and_come_out_as_they_are(
    moorage: Command, source: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "bytes").write_bytes(bytes(range(256)))
    (tmp_path / "one.txt").write_text("one")
    done = moorage(
        "run", source(COPY), "--input", "folder", "--input", "two.txt=one.txt", "--set", "n=5", "--out", "results"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "arguments {'n': 5}\n"
    assert "warned\n" in done.stderr
    assert (tmp_path / "results" / "deep" / "bytes").read_bytes() == bytes(range(256))
    assert (tmp_path / "results" / "two.txt").read_text() == "one"


def test_with_json_stdout_is_one_document(moorage: Command, source: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one")
    done = moorage("run", source(COPY), "--input", "one.txt", "--data", '{"kwargs": {"n": "x"}}', "--json")
    document = json.loads(done.stdout)
    assert document["job"]["state"] == "succeeded"
    assert document["stdout"] == "arguments {'n': 'x'}\n"
    assert document["stderr"] == "warned\n"
    assert [(file["path"], file["size"]) for file in document["outputs"]] == [("one.txt", 3)]
    assert document["attempts"][0]["exit_status"] == 0
    assert done.stderr == ""


def test_an_app_that_fails_ends_the_command_with_1_and_says_how(moorage: Command, source: Callable[..., Path]) -> None:
    done = moorage("run", source("raise SystemExit(3)", "fails"))
    assert done.returncode == 1
    assert "Job failed with exit code 3" in done.stderr
    assert "code: job_crashed" in done.stderr
    document = json.loads(moorage("run", source("raise SystemExit(3)", "fails"), "--json").stdout)
    assert document["job"]["error"]["code"] == "job_crashed"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["./nowhere"], "source_not_found"),
        (["empty"], "source_not_recognized"),
        (["copy", "--input", "nowhere"], "source_not_found"),
        (["copy", "--set", "novalue"], "bad_usage"),
        (["copy", "--set", "a=1", "--data", "{}"], "bad_usage"),
        (["copy", "--set", f"a={'x' * 1025}"], "kwarg_too_long"),
        (["copy", "--cpus", "100000"], "invalid"),
        (["copy", "--network", "nonet"], "unknown_network"),
        (["copy", "--isolation", "nobox"], "unknown_isolation"),
        (["copy", "--frobnicate"], "bad_usage"),
    ],
)
def test_a_bad_request_ends_the_command_with_2_and_nothing_runs(
    words: list[str], code: str, moorage: Command, source: Callable[..., Path], tmp_path: Path
) -> None:
    source(COPY)
    (tmp_path / "empty").mkdir()
    done = moorage("run", *words)
    assert done.returncode == 2, done.stderr
    assert f"code: {code}" in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_results_that_cannot_be_written_are_told_and_can_be_fetched_elsewhere(
    moorage: Command, source: Callable[..., Path], tmp_path: Path
) -> None:
    folder = source("open('output/result.txt', 'w').write('here')")
    (tmp_path / "taken" / "result.txt").mkdir(parents=True)
    (tmp_path / "file").write_text("not a folder")
    for out in ("taken", "file/below"):
        done = moorage("run", str(folder), "--out", out)
        assert done.returncode == 2, done.stderr
        assert "code: target_not_writable" in done.stderr
    (job,) = json.loads(moorage("job", "list", "--limit", "1", "--json").stdout)
    assert moorage("job", "outputs", job["id"], "--out", "elsewhere").returncode == 0
    assert (tmp_path / "elsewhere" / "result.txt").read_text() == "here"


def test_a_node_that_cannot_be_reached_ends_the_command_with_3(moorage: Command, source: Callable[..., Path]) -> None:
    done = moorage("run", source(COPY), MOORAGE_URL="http://127.0.0.1:1")
    assert done.returncode == 3
    assert "code: node_unreachable" in done.stderr


def test_lines_come_live_and_an_interrupt_cancels_the_job(blocked: "subprocess.Popen[str]", moorage: Command) -> None:
    assert blocked.poll() is None
    blocked.send_signal(signal.SIGINT)
    _, stderr = blocked.communicate(timeout=60)
    assert blocked.returncode == 130
    job_id = stderr.split("job show ")[1].split()[0]
    assert _job(moorage, job_id)["state"] == "cancelled"


def test_when_nobody_reads_its_output_any_more_the_job_is_cancelled(
    moorage: Command, env: dict[str, str], tmp_path: Path, source: Callable[..., Path]
) -> None:
    talkative = source("import time\nwhile True: print('x' * 1000, flush=True); time.sleep(0.001)", "talkative")
    line = f"{MOORAGE} run {talkative} 2>&1 | head -c 10"
    subprocess.run(["bash", "-c", line], env=env, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    newest = json.loads(moorage("job", "list", "--limit", "1", "--json").stdout)[0]
    assert newest["state"] == "cancelled"


def test_a_second_run_joins_the_node_of_the_first(
    blocked: "subprocess.Popen[str]", moorage: Command, source: Callable[..., Path]
) -> None:
    done = moorage("run", source(COPY), "--set", "who=second")
    assert (done.returncode, done.stdout) == (0, "arguments {'who': 'second'}\n")
    assert blocked.poll() is None
    running = json.loads(moorage("job", "list", "--state", "running", "--json").stdout)
    assert len(running) == 1


def test_a_node_that_others_have_joined_stays_until_their_jobs_have_ended(
    blocked: "subprocess.Popen[str]", moorage: Command, env: dict[str, str], tmp_path: Path, source: Callable[..., Path]
) -> None:
    command = [MOORAGE, "run", str(source(BLOCK + "# another", "joined"))]
    with subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as guest:
        assert guest.stdout is not None
        assert guest.stdout.readline() == "started\n"
        second, first = json.loads(moorage("job", "list", "--state", "running", "--json").stdout)
        moorage("job", "cancel", first["id"])
        assert blocked.stderr is not None
        while "other jobs to finish" not in blocked.stderr.readline():
            assert blocked.poll() is None
        assert guest.poll() is None
        moorage("job", "cancel", second["id"])
        assert guest.wait(timeout=60) == 130
    assert blocked.wait(timeout=60) == 130


def test_the_same_files_are_the_same_app_and_changed_ones_edit_it(
    moorage: Command, source: Callable[..., Path]
) -> None:
    def app() -> dict[str, Any]:
        document = json.loads(moorage("run", folder, "--json").stdout)
        assert document["job"]["state"] == "succeeded"
        return dict(document["app"])

    folder = source("print(1)", "changing")
    first, again = app(), app()
    assert (first["id"], first["seq"]) == (again["id"], again["seq"])
    source("print(2)", "changing")
    edited = app()
    assert edited["id"] == first["id"]
    assert edited["digest"] != first["digest"]
    moorage("app", "publish", "changing")
    assert app()["id"] == first["id"]
    source("print(3)", "changing")
    assert app()["id"] != first["id"]


def test_an_archive_is_the_same_app_as_its_folder(
    moorage: Command, source: Callable[..., Path], tmp_path: Path
) -> None:
    folder = source("print('packed')", "packed")
    subprocess.run(["tar", "-czf", "packed.tar.gz", "packed"], cwd=tmp_path, check=True)
    one = json.loads(moorage("run", folder, "--json").stdout)
    other = json.loads(moorage("run", "packed.tar.gz", "--json").stdout)
    assert other["stdout"] == "packed\n"
    assert other["app"]["id"] == one["app"]["id"]


def test_no_isolation_is_said_so(moorage: Command, source: Callable[..., Path]) -> None:
    done = moorage("run", source(COPY), "--isolation", "host")
    assert done.returncode == 0, done.stderr
    assert "Isolation is `host`" in done.stderr


def test_the_commands_at_the_end_are_ones_that_work(moorage: Command, source: Callable[..., Path]) -> None:
    done = moorage("run", source(COPY))
    commands = [line.split("  ")[0].split()[1:] for line in done.stderr.splitlines() if "moorage job " in line]
    assert [words[1] for words in commands] == ["show", "logs"]
    for words in commands:
        assert moorage(*words).returncode == 0


def _job(moorage: Command, job_id: str) -> dict[str, Any]:
    return dict(json.loads(moorage("job", "show", job_id, "--json").stdout)["job"])
