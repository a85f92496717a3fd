"""The `moorage` command: what there is, imported only when it is called, and how every command ends."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from cyclopts import App, CycloptsError

from moorage import __version__
from moorage.errors import BadUsage, InternalError, MoorageError

INTERRUPTED = 130

app = App(
    name="moorage",
    help="Run apps of compute networks on this machine: unmodified, isolated, durable.",
    version=f"moorage {__version__}",
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

COMMANDS = {
    "run": "Run an app once: add it if need be, submit a job, show what it says, fetch what it leaves.",
    "check": "Find out whether an app keeps its network's contract.",
    "serve": "Run the node and its HTTP API until it is stopped.",
    "app": "Add, show and publish apps.",
    "job": "Submit, watch and fetch jobs.",
    "service": "Show what runs long and is shared by jobs, such as containers.",
    "aleph": "What only Aleph's messages and programs have.",
    "doctor": "Tell what this machine can and cannot enforce, and how to mend it.",
    "token": "Make and remove the tokens by which other machines reach the node.",
    "completion": "Print the completion script of a shell.",
}

for _name, _help in COMMANDS.items():
    app.command(f"moorage.cli.{_name}:{_name}", name=_name, help=_help)


def main() -> NoReturn:
    """Run the command that was typed, and end with its exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup a hang-up is to be ignored
            signal.signal(number, _interrupt)
    sys.exit(run(sys.argv[1:]))


def run(tokens: Sequence[str]) -> int:
    """Run one command and return its exit status: 0, or that of its error, or 130 when interrupted."""
    try:
        return app(tokens, print_error=False, exit_on_error=False) or 0
    except CycloptsError as error:
        return _fail(_bad_usage(error, tokens), tokens)
    except MoorageError as error:
        return _fail(error, tokens)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing may be flushed into the closed pipe at exit.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 0
    except Exception as error:
        return _fail(_crash(error), tokens)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _bad_usage(error: CycloptsError, tokens: Sequence[str]) -> BadUsage:
    words = [word for word in tokens[:2] if not word.startswith("-")]
    while words and words[0] not in COMMANDS:
        words.pop()
    return BadUsage(str(error), hint=f"See `{' '.join(['moorage', *words[:1]])} --help`.")


def _crash(error: Exception) -> InternalError:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="moorage-crash-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return InternalError(
        f"{type(error).__name__}: {error}", hint=f"This is a defect of Moorage; please report it with {file.name}."
    )


def _fail(error: MoorageError, tokens: Sequence[str]) -> int:
    from moorage.cli.render import print_error

    print_error(error, as_json="--json" in tokens)
    return error.exit_status
