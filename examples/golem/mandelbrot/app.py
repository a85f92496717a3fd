"""A picture of the Mandelbrot set, computed in tiles: a Golem Task API app with both of its roles.

    python app.py requestor PORT    splits the task, judges the tiles, puts the picture together
    python app.py provider PORT     computes one tile

Everything is kept in files below /golem/work, so either role may be killed and started again at any time.
"""

import json
import os
import struct
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import health_pb2
import health_pb2_grpc
import task_api_pb2 as api
import task_api_pb2_grpc as api_grpc

WORK = Path("/golem/work")
TILE = 64
"""Rows of a tile: so many of the picture make one part."""


# What is computed


def rows_of(picture: dict, first: int, last: int) -> bytes:
    """Compute rows of the picture: a byte for each point, how soon it escapes."""
    width, height, most = picture["width"], picture["height"], picture["iterations"]
    step = picture["size"] / width
    left, top = picture["x"] - step * width / 2, picture["y"] - step * height / 2
    return bytes(
        shade(complex(left + step * column, top + step * row), most)
        for row in range(first, last)
        for column in range(width)
    )


def shade(point: complex, most: int) -> int:
    z = 0j
    for count in range(most):
        if z.real * z.real + z.imag * z.imag > 4:
            return 255 - 255 * count // most
        z = z * z + point
    return 0


def png(width: int, height: int, shades: bytes) -> bytes:
    """Write a grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + shades[row * width : (row + 1) * width] for row in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


# The requestor


class Task:
    """One task: its picture, and what became of each of its tiles."""

    def __init__(self, task_id: str) -> None:
        self.directory = WORK / task_id
        self.file = self.directory / "state.json"
        self.state = json.loads(self.file.read_text()) if self.file.exists() else {}

    def save(self) -> None:
        staged = self.file.with_suffix(".new")
        staged.write_text(json.dumps(self.state))
        staged.replace(self.file)

    def create(self, parameters: dict) -> None:
        if self.state:
            raise ValueError("this task is known already")
        picture = {"x": -0.6, "y": 0.0, "size": 3.0, "iterations": 60, "width": 480, "height": 320} | parameters
        tiles = -(-picture["height"] // TILE)
        self.state = {"picture": picture, "tiles": ["waiting"] * tiles, "subtasks": {}}
        self.save()

    def next(self, subtask_id: str) -> str | None:
        if "waiting" not in self.state.get("tiles", []):
            return None
        tile = self.state["tiles"].index("waiting")
        self.state["tiles"][tile] = "computing"
        self.state["subtasks"][subtask_id] = tile
        self.save()
        first = tile * TILE
        last = min(first + TILE, self.state["picture"]["height"])
        return json.dumps({"picture": self.state["picture"], "first": first, "last": last})

    def verify(self, subtask_id: str) -> str:
        """Look at a tile; gives what is wrong with it, if anything."""
        tile, picture = self.state["subtasks"][subtask_id], self.state["picture"]
        first = tile * TILE
        last = min(first + TILE, picture["height"])
        data = self.result(subtask_id).read_bytes()
        wrong = ""
        if len(data) != (last - first) * picture["width"]:
            wrong = f"the tile has {len(data)} points"
        elif data[: picture["width"]] != rows_of(picture, first, first + 1):
            wrong = "its first row differs from our own"
        self.state["tiles"][tile] = "waiting" if wrong else subtask_id
        if not wrong and not {"waiting", "computing"} & set(self.state["tiles"]):
            shades = b"".join(self.result(each).read_bytes() for each in self.state["tiles"])
            outputs = self.directory / "task_outputs"
            (outputs / "picture.png").write_bytes(png(picture["width"], picture["height"], shades))
        self.save()
        return wrong

    def drop(self, subtask_ids: list[str]) -> list[str]:
        dropped = [each for each in subtask_ids if each in self.state.get("subtasks", {})]
        for subtask_id in dropped:
            tile = self.state["subtasks"].pop(subtask_id)
            if self.state["tiles"][tile] in ("computing", subtask_id):
                self.state["tiles"][tile] = "waiting"
        self.save()
        return dropped

    def result(self, subtask_id: str) -> Path:
        return self.directory / "subtask_outputs" / subtask_id / "tile.bin"


class Requestor(api_grpc.RequestorAppServicer):
    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def CreateTask(self, request, context):
        Task(request.task_id).create(json.loads(request.task_params_json))
        prerequisites = json.dumps({"command": ["python", "app.py"]})
        return api.CreateTaskReply(env_id="local", prerequisites_json=prerequisites)

    def HasPendingSubtasks(self, request, context):
        waiting = "waiting" in Task(request.task_id).state.get("tiles", [])
        return api.HasPendingSubtasksReply(has_pending_subtasks=waiting)

    def NextSubtask(self, request, context):
        parameters = Task(request.task_id).next(request.subtask_id)
        if parameters is None:
            return api.NextSubtaskReply()
        return api.NextSubtaskReply(subtask=api.SubtaskReply(subtask_params_json=parameters))

    def Verify(self, request, context):
        wrong = Task(request.task_id).verify(request.subtask_id)
        result = api.VerifyReply.FAILURE if wrong else api.VerifyReply.SUCCESS
        return api.VerifyReply(result=result, reason=wrong)

    def DiscardSubtasks(self, request, context):
        dropped = Task(request.task_id).drop(list(request.subtask_ids))
        return api.DiscardSubtasksReply(discarded_subtask_ids=dropped)

    def AbortSubtask(self, request, context):
        Task(request.task_id).drop([request.subtask_id])
        return api.AbortSubtaskReply()

    def AbortTask(self, request, context):
        return api.AbortTaskReply()

    def RunBenchmark(self, request, context):
        return api.RunBenchmarkReply(score=benchmark())

    def Shutdown(self, request, context):
        self.stop.set()
        return api.ShutdownReply()


# The provider


class Provider(api_grpc.ProviderAppServicer):
    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def Compute(self, request, context):
        part = json.loads(request.subtask_params_json)
        directory = WORK / request.subtask_id
        directory.mkdir(exist_ok=True)
        (directory / "tile.bin").write_bytes(rows_of(part["picture"], part["first"], part["last"]))
        self.stop.set()  # one call is all that a provider answers
        return api.ComputeReply(output_filepath=f"{request.subtask_id}/tile.bin")

    def RunBenchmark(self, request, context):
        self.stop.set()
        return api.RunBenchmarkReply(score=benchmark())

    def Shutdown(self, request, context):
        os._exit(0)  # whatever it computes is not wanted any more


def benchmark() -> float:
    """Give points per second."""
    picture = {"x": -0.6, "y": 0.0, "size": 3.0, "iterations": 60, "width": 100, "height": 100}
    begun = os.times().user
    rows_of(picture, 0, 100)
    return 10_000 / max(os.times().user - begun, 1e-6)


# Both


class Health(health_pb2_grpc.HealthServicer):
    def Check(self, request, context):
        if request.service:
            context.abort(grpc.StatusCode.NOT_FOUND, "only the whole server's health is known")
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


class Failures(grpc.ServerInterceptor):
    """Answer what a handler raises with INTERNAL and its text, as apps of this network do."""

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        if handler is None:
            return None

        def answer(request, context):
            try:
                return handler.unary_unary(request, context)
            except Exception as error:
                context.abort(grpc.StatusCode.INTERNAL, str(error))

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


def main(role: str, port: str) -> None:
    stop = threading.Event()
    # One thread: a task's state is changed by one call at a time.
    server = grpc.server(ThreadPoolExecutor(1 if role == "requestor" else 2), interceptors=(Failures(),))
    if role == "requestor":
        api_grpc.add_RequestorAppServicer_to_server(Requestor(stop), server)
    else:
        api_grpc.add_ProviderAppServicer_to_server(Provider(stop), server)
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    stop.wait()
    server.stop(grace=2).wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
