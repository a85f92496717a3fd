"""What requests look like on the wire, and how the nouns are rendered: their dataclasses as they are."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from moorage.model.callers import LOCAL
from moorage.model.jobs import JSON, Mode
from moorage.model.limits import Limits, Timeouts
from moorage.model.states import AppState

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
"""The sha256 that examples show."""


class Body(BaseModel):
    """A request body: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def _cpus(value: object) -> object:
    if isinstance(value, str) and value.endswith("m"):
        return float(value[:-1]) / 1000
    return value


def _positive(value: int) -> int:
    if not 0 < value < 1 << 62:
        raise ValueError("Input should be greater than 0 and less than 4 EiB")
    return value


def _own_name(name: str) -> str:
    if name in {LOCAL.name, "guest"}:
        raise ValueError("This name is taken by those who need no token")
    return name


Cpus = Annotated[
    float,
    Field(gt=0, le=4096),
    BeforeValidator(_cpus),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?m?$"},
            ],
            "description": 'Cpus, such as 0.5, or thousandths of one, such as "500m".',
        }
    ),
]
Size = Annotated[
    ByteSize,
    AfterValidator(_positive),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": "^[0-9]+ ?([KMGTkmgt]i?)?[Bb]?$"},
            ],
            "description": 'Bytes, such as 512, "512MiB" or "1GB".',
        }
    ),
]
Count = Annotated[int, Field(gt=0, le=10_000_000)]
Seconds = Annotated[float, Field(gt=0, le=10**9)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="sha256 in lower-case hex.", examples=[DIGEST])]
Text = Annotated[str, Field(min_length=1, max_length=255)]


class LimitsBody(Body):
    """Ceilings for each attempt; what is left out has the default."""

    cpus: Cpus | None = None
    memory: Size | None = None
    pids: Count | None = None
    disk: Size | None = None
    tmp: Size | None = None
    open_files: Count | None = None
    output_bytes: Size | None = None
    output_files: Count | None = None
    log_bytes: Size | None = None

    def limits(self) -> Limits:
        """Fill in the defaults."""
        return Limits(**self.model_dump(exclude_none=True))


class TimeoutsBody(Body):
    """Seconds; null means no limit, and what is left out has the default."""

    queue: Seconds | None = None
    execution: Seconds | None = None
    total: Seconds | None = None

    def timeouts(self) -> Timeouts:
        """Fill in the defaults."""
        return Timeouts(**self.model_dump(exclude_unset=True))


class NamedFile(Body):
    """A stored file under a name: `path` is the folder it lies in."""

    path: Annotated[str, Field(max_length=4096)] = ""
    name: Annotated[str, Field(max_length=4096)]
    digest: Digest


class JobBody(Body):
    """What to run, on what, with what; `settings` are `KEY=VALUE` pairs as one would type them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "app_id": "app_0192f7c1a3b47c0e8f51c2d3e4f50617",
                    "parameters": {"kwargs": {"language": "en"}},
                    "inputs": [{"path": "texts", "name": "moby-dick.txt", "digest": DIGEST}],
                    "limits": {"cpus": "500m", "memory": "512MiB"},
                    "timeouts": {"execution": 60},
                    "labels": {"project": "whales"},
                }
            ]
        }
    )

    app_id: Text
    parameters: dict[str, JSON] | None = None
    settings: dict[str, str] | None = None
    inputs: Annotated[list[NamedFile], Field(max_length=10_000)] | None = None
    limits: LimitsBody | None = None
    timeouts: TimeoutsBody | None = None
    isolation: Text | None = None
    lost_retries: Annotated[int, Field(ge=0, le=100)] = 2
    labels: Annotated[dict[Text, Annotated[str, Field(max_length=255)]], Field(max_length=64)] | None = None
    after: Annotated[list[Text], Field(max_length=1000)] | None = None
    mode: Mode = "run"


class ArchiveSource(Body):
    """An uploaded archive: .zip, .tar or .tar.gz."""

    type: Literal["archive"]
    digest: Digest


class SourceFile(NamedFile):
    """One file of an app."""

    executable: bool = False


class FilesSource(Body):
    """Uploaded files, one by one."""

    type: Literal["files"]
    files: Annotated[list[SourceFile], Field(min_length=1, max_length=10_000)]


Source = Annotated[ArchiveSource | FilesSource, Field(discriminator="type")]


class AppBody(Body):
    """Code to keep as an app; its network is recognised unless it is named."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"source": {"type": "archive", "digest": DIGEST}, "name": "word-count"}]}
    )

    source: Source
    network: Text | None = None
    name: Text | None = None
    meta: dict[str, JSON] | None = None
    deploy: bool = True


class EditBody(Body):
    """What to change of an app that is not published yet."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "word-count-2"}]})

    source: Source | None = None
    name: Text | None = None
    meta: dict[str, JSON] | None = None


class StateBody(Body):
    """The state that an app shall have."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"state": "PUBLISHED"}]})

    state: AppState


class TokenBody(Body):
    """A new caller; an operator may also see and stop everybody's jobs."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "alice", "operator": False}]})

    name: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"), AfterValidator(_own_name)]
    operator: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Bytes that are kept now: their sha256 and how many they are."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenName:
    """A token, without its secret."""

    name: str
    operator: bool
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token that was just made; `token` is its secret."""

    name: str
    operator: bool
    token: str
