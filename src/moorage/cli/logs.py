"""Where the node's own log goes: standard error, as lines for people on a terminal and as JSON elsewhere."""

import logging
import sys

import structlog


def log_everything() -> None:
    """Log for an operator: from `info` on, with times."""
    people = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if people else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not people),
            *([] if people else [structlog.processors.dict_tracebacks]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
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


def _brief(logger: object, method: str, event: structlog.typing.EventDict) -> str:
    level, message = event.pop("level"), event.pop("event")
    if event.pop("exc_info", None):
        event["error"] = repr(sys.exc_info()[1])
    facts = ", ".join(f"{name}: {value}" for name, value in event.items())
    return f"{level}: {message}" + (f" ({facts})" if facts else "")
