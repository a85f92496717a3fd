"""The file with which a user submits a task (contract, section 3.5)."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, Strict, TypeAdapter, ValidationError

from moorage.blobs.names import safe_path
from moorage.errors import BadTaskFile, FileBadPath
from moorage.model.jobs import JSON
from moorage.networks.golem.documents import MISSING, BadDocument, Source, object_in, problems, read_object, readable
from moorage.networks.manifest import unknown_key

KEYS = (
    "app_id", "name", "resources", "max_price_per_hour", "max_subtasks", "task_timeout", "subtask_timeout",
    "output_directory", "redundancy",
)  # fmt: skip
"""Keys of `golem` that have a meaning here."""
KNOWN = {*KEYS, "concent_enabled"}
INT32 = 2**31 - 1
UINT256 = 2**256 - 1
MAX_DIGITS = 100
MAX_WARNINGS = 20
"""Unknown keys that are warned of."""


def _number(value: JSON) -> JSON:
    """Read a number that is written as text; `_` may stand between digits."""
    if not isinstance(value, str):
        return value
    if len(value) > MAX_DIGITS or not re.fullmatch("[0-9]+(_[0-9]+)*", value):
        raise ValueError("must be a whole number, or its decimal digits as a string")
    return int(value)


def _app_id(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{32}", text):
        raise ValueError("must be the app's id: 32 lower-case hexadecimal digits")
    return text


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError("must be an absolute path")
    return path


def _resource(path: str) -> str:
    try:
        safe_path(_basename(_absolute(path)))
    except FileBadPath as error:
        raise ValueError(f"must end with a name that an app can be given: {error.message.rstrip('.')}") from None
    return path


def _distinct(paths: tuple[str, ...]) -> tuple[str, ...]:
    repeated = [name for name, count in Counter(map(_basename, paths)).items() if count > 1]
    if repeated:
        raise ValueError(f"Duplicate resource name: {repeated[0]}")
    return paths


def _basename(path: str) -> str:
    return PurePosixPath(path).name


Whole = Annotated[int, Strict(), BeforeValidator(_number)]
Positive = Annotated[Whole, Field(ge=1, le=INT32)]
Absolute = Annotated[str, AfterValidator(_absolute)]
Resource = Annotated[str, AfterValidator(_resource)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """What a task file asks for."""

    app_id: Annotated[str, AfterValidator(_app_id)]
    name: str
    resources: Annotated[tuple[Resource, ...], AfterValidator(_distinct)]
    """Absolute paths of files and directories, whose last parts differ."""
    max_price_per_hour: Annotated[Whole, Field(ge=0, le=UINT256)]
    """In wei."""
    max_subtasks: Positive
    task_timeout: Positive
    """Seconds, as the next one."""
    subtask_timeout: Positive
    output_directory: Absolute | None
    """Where the results are wanted; null, which only this node takes, leaves them with the node."""
    redundancy: Annotated[Whole, Field(ge=1, le=9)] = 1
    """How many times each subtask is computed; only this node knows it."""
    app: Annotated[Mapping[str, JSON], PlainValidator(object_in)]
    """What only the app understands."""
    warnings: tuple[str, ...] = ()
    """What the file says in vain."""

    @property
    def parameters(self) -> str:
        """What the app is told, as its protocol writes JSON (section 3.2)."""
        return json.dumps(self.app)

    @property
    def inputs(self) -> dict[str, str]:
        """The name under which the app finds each resource, and the resource's path."""
        return {_basename(path): path for path in self.resources}

    @property
    def document(self) -> dict[str, JSON]:
        """The task file again, without what it says in vain."""
        golem = {key: getattr(self, key) for key in KEYS}
        return {"golem": {**golem, "resources": list(self.resources)}, "app": self.app}


def is_task(document: JSON) -> bool:
    """Tell whether a JSON document is a task file: exactly when it has both `golem` and `app`."""
    return isinstance(document, dict) and "golem" in document and "app" in document


def parse(document: Source, *, file: str) -> TaskFile:
    """Read a task file; unknown keys are ignored with a warning.

    Raises BadTaskFile with a line for each problem that names the file, the key and what it should be.
    """
    try:
        whole = read_object(document)
    except BadDocument as error:
        raise BadTaskFile(f"{file}: {error}.") from None
    golem = whole.get("golem")
    if not isinstance(golem, dict):
        raise BadTaskFile(f"Must be an object ({file}: `golem`).")
    given = {key: golem[key] for key in KEYS if key in golem}
    given |= {"warnings": tuple(f"{file}: {warning}" for warning in _warnings(golem))}
    try:
        return _adapter().validate_python(given | {key: whole[key] for key in ("app",) if key in whole})
    except ValidationError as error:
        raise BadTaskFile("\n".join(_told(file, *problem) for problem in problems(error))) from None


@cache
def _adapter() -> TypeAdapter[TaskFile]:
    return TypeAdapter(TaskFile)


def _warnings(golem: Mapping[str, Any]) -> Iterator[str]:
    if golem.get("concent_enabled", False) is not False:
        yield "`golem.concent_enabled` is treated as false: there is no such service any more"
    for key in islice((key for key in golem if key not in KNOWN), MAX_WARNINGS):
        yield unknown_key(f"golem.{readable(key)}", KNOWN)


def _told(file: str, key: str, reason: str) -> str:
    """Word a problem; what the network has words for begins with them (section 5)."""
    place = key if key == "app" else f"golem.{key}"
    missing = "Missing key: app" if key == "app" else f"Missing key in golem block: {key}"
    told = missing if reason == MISSING else reason[0].upper() + reason[1:]
    return f"{told} ({file}: `{place}`)."
