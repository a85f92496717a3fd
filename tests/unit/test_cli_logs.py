"""Where the node's own log goes."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from logging.handlers import RotatingFileHandler
import structlog
from moorage.cli.logs import log_everything
log = structlog.get_logger("test")
log_everything(RotatingFileHandler(sys.argv[1]) if len(sys.argv) > 1 else None)
log.debug("small", of=1)
log.info("large", of=2)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken")
"""


def test_a_file_gets_everything_and_the_console_what_matters(tmp_path: Path) -> None:
    console = _lines(_log(str(tmp_path / "node.log")))
    file = _lines((tmp_path / "node.log").read_text())
    assert [line["event"] for line in console] == ["large", "broken"]
    assert [(line["event"], line["level"]) for line in file] == [
        ("small", "debug"), ("large", "info"), ("broken", "error"),
    ]  # fmt: skip
    assert file[0]["of"] == 1
    assert str(file[0]["timestamp"]).endswith("Z")
    for line in (console[1], file[2]):
        assert "ZeroDivisionError" in json.dumps(line["exception"])


def test_without_a_file_the_console_is_as_ever() -> None:
    assert [line["event"] for line in _lines(_log())] == ["large", "broken"]


def _log(*words: str) -> str:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=True)
    return done.stderr


def _lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]
