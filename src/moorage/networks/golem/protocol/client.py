"""Clients of both services of an app, over a channel to it (contract, sections 2.3 and 3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio

from moorage.networks.golem.protocol import health_pb2, task_api_pb2

_HEALTH = "/grpc.health.v1.Health/Check"
_NO_SUCH = frozenset({grpc.StatusCode.UNIMPLEMENTED})


class Message(Protocol):
    """A message of the protocol."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's own name
        """Write it as it travels."""


R = TypeVar("R", bound=Message)


class CallFailed(Exception):
    """An app, or the way to it, did not answer a call: which one, with what status and with what text."""

    def __init__(self, rpc: str, status: grpc.StatusCode, text: str) -> None:
        self.rpc, self.status, self.text = rpc, status, text
        super().__init__(f"{rpc}: {text or status.name}")

    @property
    def lost(self) -> bool:
        """Whether the process is gone, or going."""
        return self.status is grpc.StatusCode.UNAVAILABLE

    @property
    def late(self) -> bool:
        """Whether the call's time was over."""
        return self.status is grpc.StatusCode.DEADLINE_EXCEEDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """What CreateTask has answered: what providers run in."""

    env_id: str
    prerequisites: str
    """JSON text."""
    min_memory_mib: float
    """0 for none in particular."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A subtask that NextSubtask has given."""

    parameters: str
    """JSON text for the provider, unchanged."""
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What Verify has answered; `result` may be a number that nobody knows."""

    result: int
    reason: str


class Requestor:
    """Asks an app in the role of a requestor; every call takes its deadline in seconds and raises CallFailed."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = _Caller(channel, "RequestorApp")

    async def create_task(self, task_id: str, *, max_subtasks: int, parameters: str, timeout: float) -> Created:
        """Create a task, once for each id."""
        request = task_api_pb2.CreateTaskRequest(
            task_id=task_id, max_subtasks_count=max_subtasks, task_params_json=parameters
        )
        reply = await self._call("CreateTask", request, task_api_pb2.CreateTaskReply, timeout)
        return Created(
            env_id=reply.env_id,
            prerequisites=reply.prerequisites_json,
            min_memory_mib=reply.inf_requirements.min_memory_mib,
        )

    async def has_pending_subtasks(self, task_id: str, *, timeout: float) -> bool:
        """Tell whether subtasks wait to be handed out now."""
        request = task_api_pb2.HasPendingSubtasksRequest(task_id=task_id)
        reply = await self._call("HasPendingSubtasks", request, task_api_pb2.HasPendingSubtasksReply, timeout)
        return reply.has_pending_subtasks

    async def next_subtask(self, task_id: str, subtask_id: str, *, node_id: str, timeout: float) -> Work | None:
        """Have a subtask for a node; None if the app refuses."""
        request = task_api_pb2.NextSubtaskRequest(task_id=task_id, subtask_id=subtask_id, opaque_node_id=node_id)
        reply = await self._call("NextSubtask", request, task_api_pb2.NextSubtaskReply, timeout)
        if not reply.HasField("subtask"):
            return None
        return Work(parameters=reply.subtask.subtask_params_json, resources=tuple(reply.subtask.resources))

    async def verify(self, task_id: str, subtask_id: str, *, timeout: float) -> Verdict:
        """Have a result judged."""
        request = task_api_pb2.VerifyRequest(task_id=task_id, subtask_id=subtask_id)
        reply = await self._call("Verify", request, task_api_pb2.VerifyReply, timeout)
        return Verdict(result=reply.result, reason=reply.reason)

    async def discard_subtasks(self, task_id: str, subtask_ids: Sequence[str], *, timeout: float) -> tuple[str, ...]:
        """Drop results; gives the ids that the app says it has dropped."""
        request = task_api_pb2.DiscardSubtasksRequest(task_id=task_id, subtask_ids=subtask_ids)
        reply = await self._call("DiscardSubtasks", request, task_api_pb2.DiscardSubtasksReply, timeout)
        return tuple(reply.discarded_subtask_ids)

    async def run_benchmark(self, *, timeout: float) -> float:
        """Measure this machine."""
        request = task_api_pb2.RunBenchmarkRequest()
        return (await self._call("RunBenchmark", request, task_api_pb2.RunBenchmarkReply, timeout)).score

    async def abort_task(self, task_id: str, *, timeout: float) -> None:
        """Tell the app that its task has ended early."""
        request = task_api_pb2.AbortTaskRequest(task_id=task_id)
        await self._call("AbortTask", request, task_api_pb2.AbortTaskReply, timeout)

    async def abort_subtask(self, task_id: str, subtask_id: str, *, timeout: float) -> None:
        """Tell the app that an attempt has ended without a result."""
        request = task_api_pb2.AbortSubtaskRequest(task_id=task_id, subtask_id=subtask_id)
        await self._call("AbortSubtask", request, task_api_pb2.AbortSubtaskReply, timeout)

    async def shutdown(self, *, timeout: float) -> None:
        """Tell the app to end."""
        await self._call("Shutdown", task_api_pb2.ShutdownRequest(), task_api_pb2.ShutdownReply, timeout)


class Provider:
    """Asks an app in the role of a provider; one call is all that it answers, beside Shutdown."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = _Caller(channel, "ProviderApp")

    async def compute(self, task_id: str, subtask_id: str, *, parameters: str, timeout: float) -> str:
        """Compute a subtask; gives the path of the result."""
        request = task_api_pb2.ComputeRequest(task_id=task_id, subtask_id=subtask_id, subtask_params_json=parameters)
        return (await self._call("Compute", request, task_api_pb2.ComputeReply, timeout)).output_filepath

    async def run_benchmark(self, *, timeout: float) -> float:
        """Measure this machine."""
        request = task_api_pb2.RunBenchmarkRequest()
        return (await self._call("RunBenchmark", request, task_api_pb2.RunBenchmarkReply, timeout)).score

    async def shutdown(self, *, timeout: float) -> None:
        """Tell the app to end, also while it computes."""
        await self._call("Shutdown", task_api_pb2.ShutdownRequest(), task_api_pb2.ShutdownReply, timeout)


async def is_serving(channel: grpc.aio.Channel, *, timeout: float) -> bool:
    """Tell whether an app is ready; one that has no health service is, once it answers (contract, section 2.1)."""
    check = channel.unary_unary(
        _HEALTH,
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    try:
        reply = await check(health_pb2.HealthCheckRequest(service=""), timeout=timeout)
    except grpc.aio.AioRpcError as error:
        return error.code() in _NO_SUCH
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


@dataclass(frozen=True, slots=True)
class _Caller:
    """Makes the calls of one service."""

    channel: grpc.aio.Channel
    service: str

    async def __call__(self, rpc: str, request: Message, reply: type[R], timeout: float) -> R:
        parse: Callable[[bytes], R] = reply.FromString  # type: ignore[attr-defined]
        ask: Any = self.channel.unary_unary(
            f"/golem_task_api.{self.service}/{rpc}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=parse,
        )
        try:
            answer: R = await ask(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(rpc, error.code(), error.details() or "") from error
        return answer
