"""The Python client of a node: synchronous, typed, and what the command line itself uses.

    with Client("http://127.0.0.1:4000") as node:
        app = node.wait_app(node.add_app_from(Path("word-count")).id)
        job = node.submit(app.id, settings={"language": "en"}, inputs=[node.upload_file(Path("moby-dick.txt"))])
        node.wait_job(job.id)
        node.download_outputs(job.id, Path("out"))

Every failure is a class of `moorage.errors`, the same that the node raised; `NodeUnreachable` if none answers.
"""

import base64
import contextlib
import hashlib
import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from moorage.blobs.tar import folder_members, tar_stream
from moorage.connection import Connection, deadline_in, route
from moorage.errors import BlobMismatch, NodeUnreachable, SourceNotFound, TargetNotWritable
from moorage.model.apps import App
from moorage.model.events import Event
from moorage.model.jobs import JSON, Attempt, FileRef, Job, Mode
from moorage.model.states import AppState, JobState

if TYPE_CHECKING:
    # Each of these takes longer to import than a command line may take to start.
    from moorage.networks.base import ServiceState
    from moorage.node.explain import Explanation
    from moorage.node.info import NodeInfo
    from moorage.sandbox.base import Check, Stream

BLOCK = 1 << 20
EVENTS = 1000
"""Events that one request gives at most."""
POLL = 30.0
"""Seconds that one request of a longer wait takes at most."""
PAUSES = (0.1, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before a broken stream of events is taken up again, by failures in a row."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


class Client:
    """A connection to one node, by its URL or by the path of its Unix socket."""

    def __init__(self, address: str | Path, *, token: str | None = None) -> None:
        self._node = Connection(str(address), token)

    def __enter__(self) -> "Client":
        """Use the client for a while."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._node.close()

    # files

    def upload_file(self, path: Path, name: str | None = None) -> FileRef:
        """Store a file, unless the node has it already, and give it a name (its own by default)."""
        with _opened(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            if not self.has_blob(digest):
                file.seek(0)
                self._node.call("PUT", route("blobs", digest), content=iter(lambda: file.read(BLOCK), b""))
        return FileRef(path=name or path.name, digest=digest, size=size)

    def upload(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Store a stream; returns its digest and size."""
        stored = self._node.call("POST", "/v1/blobs", content=chunks).json()
        return stored["digest"], stored["size"]

    def has_blob(self, digest: str) -> bool:
        """Tell whether the node has the bytes of a digest."""
        return self._node.has(route("blobs", digest))

    # apps

    def add_app_from(
        self,
        source: Path,
        *,
        network: str | None = None,
        name: str | None = None,
        meta: Mapping[str, JSON] | None = None,
        deploy: bool = True,
    ) -> App:
        """Add a folder, an archive or a single file as an app; the node installs it in the background if `deploy`.

        Raises SourceNotFound, BadApp for what cannot be sent (sockets, devices, FIFOs), and what the node refuses.
        """
        body = {"source": self._source(source), "network": network, "name": name, "meta": meta or {}, "deploy": deploy}
        return self._node.read(App, "POST", "/v1/apps", json=body)

    def edit_app(
        self,
        app_id: str,
        *,
        source: Path | None = None,
        name: str | None = None,
        meta: Mapping[str, JSON] | None = None,
    ) -> App:
        """Change an app that is not published yet; with a new source, wait until its environment is built."""
        body = {"source": self._source(source) if source else None, "name": name, "meta": meta}
        return self._node.read(App, "PUT", route("apps", app_id), json=body, timeout=None)

    def change_app(self, app_id: str, state: AppState) -> App:
        """Move an app to another state."""
        return self._node.read(App, "PUT", route("apps", app_id, "state"), json={"state": state})

    def app(self, app_id: str) -> App:
        """Read an app."""
        return self._node.read(App, "GET", route("apps", app_id))

    def apps(
        self,
        *,
        state: AppState | None = None,
        network: str | None = None,
        name: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[App]:
        """List apps, newest first."""
        query = {"state": state, "network": network, "name": name, "before": before, "limit": limit}
        return self._node.read(list[App], "GET", "/v1/apps", params=query)

    def wait_app(self, app_id: str, timeout: float | None = None) -> App:
        """Wait until an app is installed or has failed to be, at most `timeout` seconds."""
        deadline = deadline_in(timeout)
        app = self.app(app_id)
        while app.state is AppState.CREATED and (left := deadline - time.monotonic()) > 0:
            query = {"wait": min(left, POLL), "after": app.seq}
            app = self._node.read(App, "GET", route("apps", app_id), params=query)
        return app

    # jobs

    def submit(
        self,
        app_id: str,
        *,
        parameters: Mapping[str, JSON] | None = None,
        settings: Mapping[str, str] | None = None,
        inputs: Sequence[FileRef] = (),
        limits: Mapping[str, int | float | str] | None = None,
        timeouts: Mapping[str, float | None] | None = None,
        isolation: str | None = None,
        lost_retries: int = 2,
        labels: Mapping[str, str] | None = None,
        after: Sequence[str] = (),
        mode: Mode = "run",
        job_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job: either `parameters` in the network's own words, or `settings` as one would type them.

        `limits` and `timeouts` take the field names of `moorage.model.limits`, sizes also as "512MiB".
        """
        body = {
            "app_id": app_id,
            "parameters": parameters,
            "settings": settings,
            "inputs": [{"name": ref.path, "digest": ref.digest} for ref in inputs],
            "limits": limits or {},
            "timeouts": timeouts or {},
            "isolation": isolation,
            "lost_retries": lost_retries,
            "labels": labels or {},
            "after": list(after),
            "mode": mode,
        }
        method, path = ("PUT", route("jobs", job_id)) if job_id else ("POST", "/v1/jobs")
        headers = {"idempotency-key": idempotency_key} if idempotency_key else None
        return self._node.read(Job, method, path, json=body, headers=headers)

    def job(self, job_id: str) -> Job:
        """Read a job."""
        return self._node.read(Job, "GET", route("jobs", job_id))

    def jobs(
        self,
        *,
        state: JobState | None = None,
        app_id: str | None = None,
        network: str | None = None,
        labels: Mapping[str, str] | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """List jobs, newest first."""
        pairs = [f"{key}={value}" for key, value in (labels or {}).items()]
        query = {
            "state": state, "app_id": app_id, "network": network, "label": pairs, "before": before, "limit": limit,
        }  # fmt: skip
        return self._node.read(list[Job], "GET", "/v1/jobs", params=query)

    def wait_job(self, job_id: str, state: JobState | None = None, timeout: float | None = None) -> Job:
        """Wait until a job is in a state or has ended (None: until it has ended), at most `timeout` seconds."""
        deadline = deadline_in(timeout)
        while True:
            query = {"state": state or "settled", "timeout": max(0.0, min(deadline - time.monotonic(), POLL))}
            job = self._node.read(Job, "GET", route("jobs", job_id, "wait"), params=query)
            if job.state.terminal or job.state == state or time.monotonic() >= deadline:
                return job

    def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return self._node.read(Job, "POST", route("jobs", job_id, "cancel"))

    def retry(self, job_id: str) -> Job:
        """Submit a job that has ended again, as a new one."""
        return self._node.read(Job, "POST", route("jobs", job_id, "retry"))

    def why(self, job_id: str) -> "Explanation":
        """Ask why a job waits, or ended as it did."""
        from moorage.node.explain import Explanation

        return self._node.read(Explanation, "GET", route("jobs", job_id, "why"))

    def attempts(self, job_id: str) -> list[Attempt]:
        """List the attempts at a job."""
        return self._node.read(list[Attempt], "GET", route("jobs", job_id, "attempts"))

    # events and logs

    def events(self, subject: str, *, after: int = 0) -> list[Event]:
        """List all events of a job or app, oldest first."""
        found: list[Event] = []
        while True:
            query = {"after": after, "limit": EVENTS}
            batch = self._node.read(list[Event], "GET", _events_of(subject), params=query)
            found += batch
            if len(batch) < EVENTS:
                return found
            after = batch[-1].seq

    def follow_events(self, subject: str, *, after: int = 0) -> Iterator[Event]:
        """Give the events of a job or app as they come, until its history ends; a broken stream is taken up again."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                for event in self._node.events(_events_of(subject), after):
                    if event is None:
                        return
                    yield event
                    after = event.seq
                    if event.final:
                        return
            except NodeUnreachable:
                failures = failures + 1 if time.monotonic() - began < PAUSES[-1] else 1
                if failures == len(PAUSES):
                    raise
            time.sleep(PAUSES[failures])

    def follow_logs(
        self, job_id: str, *, stream: "Stream | None" = None, follow: bool = True
    ) -> Iterator[tuple["Stream", bytes]]:
        """Give what a job has written, and with `follow` what it writes until it has ended."""
        query = {"follow": follow}
        with self._node.stream(route("jobs", job_id, "logs"), params=query) as answer:
            for line in answer.iter_lines():
                item = json.loads(line)
                chunk = item["text"].encode() if "text" in item else base64.b64decode(item["base64"])
                if stream in {None, item["stream"]}:
                    yield item["stream"], chunk

    # outputs

    def outputs(self, job_id: str) -> list[FileRef]:
        """List what a job left."""
        return self._node.read(list[FileRef], "GET", route("jobs", job_id, "outputs"))

    def download_outputs(self, job_id: str, directory: Path) -> list[Path]:
        """Write what a job left below a directory; each file appears whole, with verified bytes, or not at all.

        Raises TargetNotWritable, BlobMismatch.
        """
        from moorage.blobs.names import contained

        with _writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        outputs = [(ref, directory.joinpath(*contained(ref.path))) for ref in self.outputs(job_id)]
        for ref, path in outputs:
            with _writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            self.download(ref.digest, path)
        return [path for _, path in outputs]

    def download(self, digest: str, path: Path) -> None:
        """Write a blob to a file, which appears whole, with verified bytes, or not at all.

        Raises TargetNotWritable, BlobMismatch.
        """
        partial = path.with_name(f".{path.name[:200]}.{digest[:8]}.part")
        seen = hashlib.sha256()
        with _writing(path), contextlib.ExitStack() as stack:
            stack.callback(partial.unlink, missing_ok=True)
            with partial.open("wb") as file, self._node.stream(route("blobs", digest)) as answer:
                for block in answer.iter_bytes(BLOCK):
                    seen.update(block)
                    file.write(block)
            if seen.hexdigest() != digest:
                raise BlobMismatch(f"{path.name} did not arrive as it was stored.")
            partial.rename(path)

    # the node

    def node(self) -> "NodeInfo":
        """Ask what the node is and has."""
        from moorage.node.info import NodeInfo

        return self._node.read(NodeInfo, "GET", "/v1/node")

    def doctor(self) -> "list[Check]":
        """Ask what the node's machine can and cannot enforce."""
        from moorage.sandbox.base import Check

        return self._node.read(list[Check], "GET", "/v1/node/doctor")

    def services(self) -> "list[ServiceState]":
        """List the services that were ever needed."""
        from moorage.networks.base import ServiceState

        return self._node.read(list[ServiceState], "GET", "/v1/services")

    def service(self, key: str) -> "ServiceState":
        """Ask about one service."""
        from moorage.networks.base import ServiceState

        return self._node.read(ServiceState, "GET", route("services", key))

    def ask(self, method: str, *parts: str, body: Mapping[str, JSON] | None = None) -> JSON:
        """Ask what only one network's surface answers, `/v1/NETWORK/...` by its parts; waits as long as it takes."""
        return self._node.call(method, route(*parts), json=body, timeout=None).json()

    def tokens(self) -> list[dict[str, Any]]:
        """List who has a token: name, operator, created_at."""
        return self._node.read(list[dict[str, Any]], "GET", "/v1/tokens")

    def add_token(self, name: str, *, operator: bool = False) -> str:
        """Make a token; returns its secret, which the node does not keep."""
        secret: str = self._node.call("POST", "/v1/tokens", json={"name": name, "operator": operator}).json()["token"]
        return secret

    def remove_token(self, name: str) -> None:
        """Forget a token."""
        self._node.call("DELETE", route("tokens", name))

    def _source(self, source: Path) -> dict[str, JSON]:
        if source.is_dir():
            digest, _ = self.upload(tar_stream(folder_members(source)))
            return {"type": "archive", "digest": digest}
        ref = self.upload_file(source)
        if source.name.lower().endswith(ARCHIVES):
            return {"type": "archive", "digest": ref.digest}
        return {"type": "files", "files": [{"name": ref.path, "digest": ref.digest}]}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    if not path.is_file():
        raise SourceNotFound(f"There is no file {path}.")
    try:
        file = path.open("rb")
    except OSError as error:
        raise SourceNotFound(f"{path} cannot be read: {error.strerror}.") from None
    with file:
        yield file


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say which path cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise TargetNotWritable(f"{path} cannot be written: {error.strerror}.") from None


def _events_of(subject: str) -> str:
    return route("apps" if subject.startswith("app_") else "jobs", subject, "events")
