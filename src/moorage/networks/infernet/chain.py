"""One off-chain job: its containers one after the other, or the stream of one (contract, sections 2.2 and 2.3)."""

import asyncio
import base64
import codecs
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from moorage.errors import ContainerFailed, JobCancelled, JobLost
from moorage.model.jobs import JSON, ErrorInfo, Job, Result
from moorage.model.limits import MIB, Limits
from moorage.networks.base import Cancellation
from moorage.networks.infernet.service import ContainerError, Place, request_body
from moorage.networks.infernet.wire import Answer, Failure, JobResult, Output, State

SMALL = Limits(cpus=0.001, memory=MIB)
"""What is reserved for a job: the containers hold what it takes."""
KEPT = MIB
"""Bytes of a stream that are stored with its job; all of it goes to the client."""

INTERRUPTED = "Interrupted by node restart"
"""Error of a job that was inside a container when the node went away (section 2.2)."""

DISCONNECTED = "Client disconnected"
"""Error of a stream whose client left (section 4.6)."""

Write = Callable[[bytes], Awaitable[None]]
Left = Callable[[], bool]


class Container(Protocol):
    """What a job needs of a container; see `calls.Calls`."""

    name: str

    async def ask(self, body: bytes) -> Output | Failure:
        """Send what it is asked and judge its answer."""

    def stream(self, body: bytes) -> AsyncGenerator[bytes, None]:
        """Send what it is asked and give the bytes of its answer as they come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A job's parameters."""

    containers: tuple[str, ...]
    data: JSON
    requires_proof: bool = False

    @property
    def parameters(self) -> dict[str, JSON]:
        """The request as it is stored."""
        return {"containers": list(self.containers), "data": self.data, "requires_proof": self.requires_proof}

    @classmethod
    def of(cls, parameters: Mapping[str, JSON]) -> "Request":
        """Read what was stored."""
        return cls(
            containers=tuple(parameters["containers"]),
            data=parameters["data"],
            requires_proof=parameters["requires_proof"],
        )


async def run(request: Request, chain: Sequence[Container], cancelled: Cancellation) -> Result:
    """Ask one container after the other; the output of each is the data of the next, and the first failure ends it."""
    data: JSON = request.data
    answers: list[Answer] = []
    with _Until(cancelled):
        await _unless(cancelled)
        for position, container in enumerate(chain):
            body = request_body(
                data,
                source=Place.OFFCHAIN,
                destination=Place.OFFCHAIN,
                requires_proof=request.requires_proof,
                position=position,
                length=len(chain),
            )
            outcome = await container.ask(body)
            answers.append(Answer(container=container.name, outcome=outcome))
            if isinstance(outcome, Failure):
                break
            data = outcome.value
    if cancelled.is_set():
        answers.append(_cancelled(chain[len(answers)].name if len(answers) < len(chain) else chain[-1].name))
    return _result(answers)


async def stream(
    request: Request, container: Container, write: Write, cancelled: Cancellation, *, left: Left
) -> Result:
    """Pass on what a container gives, no faster than it is taken, and keep the beginning.

    `write` raises ConnectionError once nobody takes it any more; `left` tells whether that is why it is cancelled.
    """
    body = request_body(request.data, source=Place.OFFCHAIN, destination=Place.STREAM, requires_proof=False)
    kept = Kept()
    outcome: Output | Failure | None = None
    try:
        with _Until(cancelled):
            await _unless(cancelled)
            async with aclosing(container.stream(body)) as chunks:
                async for chunk in chunks:
                    kept.add(chunk)
                    await write(chunk)
            outcome = Output(value=kept.document)
    except ContainerError as error:
        outcome = error.failure
    except ConnectionError:
        outcome = Failure(error=DISCONNECTED)
    if outcome is None:
        outcome = Failure(error=DISCONNECTED if left() else JobCancelled().message)
    return _result([Answer(container=container.name, outcome=outcome)])


@dataclass(slots=True, kw_only=True)
class Kept:
    """The beginning of a stream."""

    text: bytearray = field(default_factory=bytearray)
    cut: bool = False

    def add(self, chunk: bytes) -> None:
        """Take the next bytes."""
        room = KEPT - len(self.text)
        self.text += chunk[:room]
        self.cut = self.cut or len(chunk) > room

    @property
    def document(self) -> JSON:
        """The stream as it is stored (section 4.6): as text if it is any."""
        try:
            # Not final: a character may have been cut in two where the rest was left out.
            text = codecs.getincrementaldecoder("utf-8")().decode(bytes(self.text), final=not self.cut)
            document: dict[str, JSON] = {"output": text}
        except UnicodeDecodeError:
            document = {"output_base64": base64.b64encode(self.text).decode()}
        return {**document, "truncated": True} if self.cut else document


def result_of(job: Job) -> JobResult:
    """Tell of a job in the network's own words (section 4.7)."""
    if not job.state.terminal:
        return JobResult(id=job.id, status="running")
    return ended(job, Result(error=job.error, value=job.value))


def ended(job: Job, result: Result) -> JobResult:
    """Tell what has become of a job."""
    answers = [_answer(each) for each in result.value or ()]
    if result.error is not None and not (answers and isinstance(answers[-1].outcome, Failure)):
        answers.append(_unanswered(job, result.error, len(answers)))
    status: State = "failed" if result.error else "success"
    return JobResult(id=job.id, status=status, result=answers[-1], intermediate_results=answers[:-1])


def _unanswered(job: Job, error: ErrorInfo, position: int) -> Answer:
    """Say what the node has to say where no container did."""
    names = Request.of(job.spec.parameters).containers
    name = names[min(position, len(names) - 1)]
    text = error.message
    if error.code == JobLost.code:
        text = INTERRUPTED
    elif error.code == JobCancelled.code and job.spec.mode == "stream":
        text = DISCONNECTED  # before it began: nobody but its client knew of it
    return Answer(container=name, outcome=Failure(error=text))


def _answer(document: Mapping[str, JSON]) -> Answer:
    outcome: Output | Failure = (
        Failure(error=document["error"]) if "error" in document else Output(value=document["output"])
    )
    return Answer(container=document["container"], outcome=outcome)


def _cancelled(name: str) -> Answer:
    return Answer(container=name, outcome=Failure(error=JobCancelled().message))


def _result(answers: Sequence[Answer]) -> Result:
    """Keep all answers: the last is that of the job, the others were on the way."""
    last = answers[-1]
    return Result(error=_error(last), value=[answer.document for answer in answers])


def _error(answer: Answer) -> ErrorInfo | None:
    if isinstance(answer.outcome, Output):
        return None
    return ContainerFailed(f"Container {answer.container}: {answer.outcome.error}").info


async def _unless(cancelled: Cancellation) -> None:
    """Let a cancellation of before take effect here, before anything is asked."""
    if cancelled.is_set():
        await asyncio.sleep(0)


class _Until:
    """Gives up what is done within once it is cancelled; what it was is then left unfinished."""

    def __init__(self, cancelled: Cancellation) -> None:
        self._cancelled = cancelled

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        if self._cancelled.is_set():
            task.cancel()
        self._cancelled.on_set = task.cancel

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._cancelled.on_set = None
        given_up = kind is not None and issubclass(kind, asyncio.CancelledError) and self._cancelled.is_set()
        if given_up:
            self._task.uncancel()
        return given_up
