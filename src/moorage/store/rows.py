"""Rows of the database to nouns, and nouns to columns."""

import sqlite3
from collections.abc import Callable, Mapping
from functools import lru_cache
from json import JSONEncoder, loads
from operator import attrgetter
from typing import Any

from moorage.model.apps import App
from moorage.model.events import Event
from moorage.model.jobs import JSON, Attempt, ErrorInfo, FileRef, Job, JobSpec, Usage
from moorage.model.limits import Limits, Timeouts
from moorage.model.states import AppState, AttemptState, JobState
from moorage.store.base import Token

# One encoder for all: escaping keeps text that is no valid UTF-8 storable.
dumps: Callable[[Any], str] = JSONEncoder(separators=(",", ":")).encode

_LIMITS: tuple[str, ...] = tuple(Limits.__dataclass_fields__)
_TIMEOUTS: tuple[str, ...] = tuple(Timeouts.__dataclass_fields__)
_limits, _timeouts = attrgetter(*_LIMITS), attrgetter(*_TIMEOUTS)


def spec_text(spec: JobSpec) -> str:
    """Write down a spec without its app.

    Every limit is written even if it is the default, because defaults may change and a spec never does.
    """
    document: dict[str, JSON] = {"lost_retries": spec.lost_retries}
    if spec.parameters:
        document["parameters"] = dict(spec.parameters)
    if spec.inputs:
        document["inputs"] = [_file(each) for each in spec.inputs]
    if spec.isolation is not None:
        document["isolation"] = spec.isolation
    if spec.labels:
        document["labels"] = dict(spec.labels)
    if spec.after:
        document["after"] = spec.after
    if spec.mode != "run":
        document["mode"] = spec.mode
    bounds = _bounds_text(*_limits(spec.limits), *_timeouts(spec.timeouts))
    return f"{bounds[:-1]},{dumps(document)[1:]}"  # the members of both


@lru_cache(maxsize=256, typed=True)  # 1 and 1.0 are the same key otherwise, and not the same text
def _bounds_text(*values: float | None) -> str:
    """Write down the limits and timeouts, which most jobs of an app have in common."""
    split = len(_LIMITS)
    return dumps(
        {
            "limits": dict(zip(_LIMITS, values[:split], strict=True)),
            "timeouts": dict(zip(_TIMEOUTS, values[split:], strict=True)),
        }
    )


def spec(text: str, app_id: str) -> JobSpec:
    """Read a spec back."""
    document = loads(text)
    return JobSpec(
        app_id=app_id,
        parameters=document.get("parameters", {}),
        inputs=tuple(FileRef(path=path, digest=digest, size=size) for path, digest, size in document.get("inputs", ())),
        limits=Limits(**document["limits"]),
        timeouts=Timeouts(**document["timeouts"]),
        isolation=document.get("isolation"),
        lost_retries=document["lost_retries"],
        labels=document.get("labels", {}),
        after=tuple(document.get("after", ())),
        mode=document.get("mode", "run"),
    )


def layers_text(layers: Mapping[str, str]) -> str:
    """Write down the names of layers by role."""
    return dumps(dict(layers)) if layers else "{}"


def same_text(one: str, other: str) -> bool:
    """Tell whether two JSON texts say the same, whatever the order of their keys (and 1 is not true)."""
    return one == other or _ordered(one) == _ordered(other)


def _ordered(text: str) -> str:
    return JSONEncoder(sort_keys=True).encode(loads(text))


def job(row: sqlite3.Row) -> Job:
    """Read a job from a row of `job_rows`."""
    return Job(
        id=row["id"],
        owner=row["owner"],
        network=row["network"],
        app_digest=row["app_digest"],
        layers=loads(row["layers"]),
        spec=spec(row["spec"], row["app_id"]),
        lane=row["lane"],
        state=JobState(row["state"]),
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        attempts=row["attempts"],
        seq=row["seq"],
        error=_error(row["error"]),
        value=None if row["value"] is None else loads(row["value"]),
        idempotency_key=row["idempotency_key"],
        parent_id=row["parent_id"],
        retry_of=row["retry_of"],
    )


def app(row: sqlite3.Row) -> App:
    """Read an app from a row of `app_rows`."""
    return App(
        id=row["id"],
        network=row["network"],
        name=row["name"],
        owner=row["owner"],
        state=AppState(row["state"]),
        digest=row["digest"],
        size=row["size"],
        files=row["files"],
        manifest=loads(row["manifest"]),
        meta=loads(row["meta"]),
        layers=loads(row["layers"]),
        deploy=bool(row["deploy"]),
        published=bool(row["published"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        seq=row["seq"],
        error=_error(row["error"]),
    )


def app_columns(app: App) -> dict[str, Any]:
    """Give an app's values by column."""
    return {
        "id": app.id,
        "network": app.network,
        "name": app.name,
        "owner": app.owner,
        "state": app.state,
        "digest": app.digest,
        "size": app.size,
        "files": app.files,
        "manifest": dumps(dict(app.manifest)),
        "meta": dumps(dict(app.meta)),
        "layers": layers_text(app.layers),
        "deploy": app.deploy,
        "published": app.published,
        "created_at": app.created_at,
        "updated_at": app.updated_at,
        "error": error_text(app.error),
    }


def attempt(row: sqlite3.Row) -> Attempt:
    """Read an attempt from its row joined with the id of its job; its number is its lease."""
    return Attempt(
        id=row["id"],
        job_id=row["job_id"],
        number=row["number"],
        state=AttemptState(row["state"]),
        lease=row["number"],
        place=row["place"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        exit_status=row["exit_status"],
        usage=Usage(wall=row["wall"], cpu=row["cpu"], peak_memory=row["peak_memory"]),
        error=_error(row["error"]),
        stdout=_file_ref(row["stdout"]),
        stderr=_file_ref(row["stderr"]),
    )


def event(row: sqlite3.Row) -> Event:
    """Read an event from its row."""
    return Event(
        id=row["id"],
        subject=row["subject"],
        seq=row["seq"],
        time=row["time"],
        topic=row["topic"],
        message=row["message"],
        attempt_id=row["attempt_id"],
        error=_error(row["error"]),
        data={} if row["data"] is None else loads(row["data"]),
    )


def token(row: sqlite3.Row) -> Token:
    """Read a token from its row."""
    return Token(name=row["name"], sha256=row["sha256"], operator=bool(row["operator"]), created_at=row["created_at"])


def files_text(files: tuple[FileRef, ...]) -> str | None:
    """Write down files, sorted by path; None for none."""
    return dumps([_file(each) for each in sorted(files, key=lambda each: each.path)]) if files else None


def files(text: str | None) -> list[FileRef]:
    """Read files back."""
    return [FileRef(path=path, digest=digest, size=size) for path, digest, size in loads(text or "[]")]


def file_text(file: FileRef | None) -> str | None:
    """Write down one file."""
    return None if file is None else dumps(_file(file))


def error_text(error: ErrorInfo | None) -> str | None:
    """Write down an error."""
    if error is None:
        return None
    return dumps({"code": error.code, "message": error.message, "hint": error.hint, "retryable": error.retryable})


def _error(text: str | None) -> ErrorInfo | None:
    return None if text is None else ErrorInfo(**loads(text))


def _file(file: FileRef) -> tuple[str, str, int]:
    return file.path, file.digest, file.size


def _file_ref(text: str | None) -> FileRef | None:
    return files(f"[{text}]")[0] if text else None
