"""Where the node's own log goes: standard error, as lines for people on a terminal and as JSON elsewhere; a file."""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor

JSON: tuple[Processor, ...] = (
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
    structlog.processors.JSONRenderer(),
)
PEOPLE: tuple[Processor, ...] = (
    structlog.processors.TimeStamper(fmt="iso", utc=False),
    structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
)


def log_everything(file: logging.Handler | None = None) -> None:
    """Log for an operator: from `info` on, with times; to a file, if there is one, from `debug` on."""
    to_file: list[Processor] = [] if file is None else [_To(file), _from_info]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            *to_file,
            *(PEOPLE if sys.stderr.isatty() else JSON),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO if file is None else logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def log_warnings() -> None:
    """Log beside a command's own output: warnings and worse, briefly."""
    structlog.configure(
        processors=[structlog.processors.add_log_level, _brief],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


class _To:
    """Writes what passes to a file as well, as JSON lines."""

    def __init__(self, file: logging.Handler) -> None:
        self._file = file

    def __call__(self, logger: object, method: str, event: EventDict) -> EventDict:
        line: object = dict(event)
        for process in JSON:
            line = process(logger, method, line)  # type: ignore[arg-type]
        self._file.handle(logging.makeLogRecord({"msg": line}))
        return event


def _from_info(logger: object, method: str, event: EventDict) -> EventDict:
    if event["level"] == "debug":
        raise structlog.DropEvent
    return event


def _brief(logger: object, method: str, event: EventDict) -> str:
    level, message = event.pop("level"), event.pop("event")
    if event.pop("exc_info", None):
        event["error"] = repr(sys.exc_info()[1])
    facts = ", ".join(f"{name}: {value}" for name, value in event.items())
    return f"{level}: {message}" + (f" ({facts})" if facts else "")
