"""The network's JSON shapes (contract, section 3.2): every field is sent, nulls included, in this order."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from moorage.model.jobs import JSON

JobState = Literal["CREATED", "WORKING", "FINISHING", "FINISHED"]
NodeState = Literal["IDLE", "INSTALLING", "BUSY"]


def _object(value: Any) -> Any:
    return {} if value is None else value  # null is 422 on the network's own node; ours takes it


class File(BaseModel):
    """An input of a job or a part of an app; size in bytes."""

    id: str
    name: str
    path: str | None = None
    content_type: str | None = None
    size: int


class Job(BaseModel):
    """A request to run an app; times are Unix seconds. Arguments: `meta.kwargs`, `meta.args`."""

    id: str
    app_id: str
    eth_address: str
    meta: Annotated[dict[str, JSON], BeforeValidator(_object)] = Field(default_factory=dict)
    time_to_give_up: Annotated[int, Field(ge=0)] | None = None
    state: JobState
    start_ts: int | None
    ts: int
    last_modified: int
    files: list[File] | None = None


class Result(BaseModel):
    """What a job came to; `success` alone says whether it succeeded, never the job's state."""

    job_id: str
    execution_time: float
    output: str | None
    success: bool
    error: str | None
    file_ids: list[str] | None


class App(BaseModel):
    """An app as the router keeps it."""

    id: str
    eth_address: str
    name: str | None = None
    description: str | None = None
    meta: dict[str, JSON] | None = None
    spec_id: str
    ts: int
    last_modified: int
    files: list[File]


class Spec(BaseModel):
    """What a machine has: memory in GB, and the number formats it computes with."""

    ram: int
    vram: int
    FP80: bool = False
    FP64: bool = False
    FP32: bool = False
    FP16: bool = False
    FP8: bool = False
    FP4: bool = False
    BF16: bool = False
    TF32: bool = False
    NF4: bool = False


class NodeDef(BaseModel):
    """What a node says of itself when it registers."""

    eth_address: str
    spec: Spec
    cpu: str | None
    gpu: str | None


class Node(BaseModel):
    """What the router answers to that; only the id is needed."""

    id: str


def arguments_of(job: Job) -> Mapping[str, JSON]:
    """Give a job's parameters in the words of our own API."""
    found = {name: job.meta[name] for name in ("kwargs", "args") if job.meta.get(name) is not None}
    return {**found, "time_to_give_up": job.time_to_give_up} if job.time_to_give_up else found
