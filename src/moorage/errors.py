"""The catalogue of what can go wrong: a class per thing, its docstring the default message.

Every error carries a `code` (the class name in snake case), a `hint` that says what to do, whether a retry
can help, the HTTP status that the API answers and the exit status of the command line.
"""

import re
from typing import Any, ClassVar

from moorage.model.jobs import ErrorInfo

APP, USAGE, NODE = 1, 2, 3
"""Exit status of a command: the app failed, the request was bad, the node had trouble."""


class MoorageError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"
    hint: str | None = None
    retryable: bool = False
    status: ClassVar[int] = 500
    blames_app: ClassVar[bool] = False
    """Whether a job that ends with it failed by its app's own doing."""

    def __init_subclass__(cls) -> None:
        """Name the code after the class."""
        cls.code = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(
        self, message: str | None = None, *, hint: str | None = None, retryable: bool | None = None, **detail: Any
    ) -> None:
        self.message = message or (self.__doc__ or "").strip()
        self.hint = hint or self.hint
        self.retryable = self.retryable if retryable is None else retryable
        self.detail = detail
        super().__init__(self.message)

    @property
    def exit_status(self) -> int:
        """Exit status of a command that ends so: 1 the app failed, 2 a bad request, 3 the node had trouble."""
        if self.blames_app:
            return APP
        return USAGE if 400 <= self.status < 500 else NODE

    @property
    def info(self) -> ErrorInfo:
        """The error as it is stored with a job, app or event."""
        return ErrorInfo(code=self.code, message=self.message, hint=self.hint, retryable=self.retryable)


# Requests


class Invalid(MoorageError):
    """The request is not valid."""

    status = 422


class BadUsage(MoorageError):
    """The command was not understood."""

    status = 400
    hint = "See `moorage --help`."


class NotFound(MoorageError):
    """There is no such thing here."""

    status = 404
    hint = "List what there is with `moorage app list` and `moorage job list`."


class Unauthorized(MoorageError):
    """A token is needed."""

    status = 401
    hint = "Send `Authorization: Bearer TOKEN`; the operator makes one with `moorage token add NAME`."


class Forbidden(MoorageError):
    """This caller may not do that."""

    status = 403


class ForeignHost(MoorageError):
    """The request names a host that this node is not."""

    status = 421
    hint = "Reach it as 127.0.0.1 or localhost, or send a token."


class ForeignOrigin(MoorageError):
    """A page of another origin may not change anything here."""

    status = 403
    hint = "Send a token, or make the request from a program rather than from a web page."


class Malformed(MoorageError):
    """The request body is not valid JSON."""

    status = 400


class MethodNotAllowed(MoorageError):
    """This path does not take that method."""

    status = 405
    hint = "See /openapi.json for what it takes."


class PayloadTooLarge(MoorageError):
    """The request body is too large."""

    status = 413
    hint = "Upload large values with POST /v1/blobs and name them by digest."


class UnsupportedMediaType(MoorageError):
    """The request body is not JSON."""

    status = 415
    hint = "Send `Content-Type: application/json`."


class IdempotencyConflict(MoorageError):
    """The same id or idempotency key was used before with a different request."""

    status = 409
    hint = "Use a new key for a new request, or repeat the first request unchanged."


# Sources and apps


class SourceNotFound(MoorageError):
    """The source does not exist."""

    status = 404
    hint = "Give the path of a folder, a file or an archive."


class TargetNotWritable(MoorageError):
    """The results cannot be written there."""

    status = 400
    hint = "Nothing is lost: fetch them to another folder with `moorage job outputs ID --out DIR`."


class SourceNotRecognized(MoorageError):
    """No network recognises this source."""

    status = 422
    hint = "Name its network with --network, or add a moorage.toml with `network = ...`."


class UnknownNetwork(MoorageError):
    """No installed network has this name."""

    status = 422


class BadManifest(MoorageError):
    """The manifest is not valid."""

    status = 422


class BadApp(MoorageError):
    """The app's files do not make an app of its network."""

    status = 422


class BadTaskFile(MoorageError):
    """The task file is not valid."""

    status = 422
    hint = 'It is `{"golem": {...}, "app": {...}}`: what the node is told of the task, and what the app is told.'


class FileBadPath(MoorageError):
    """A file name is not safe."""

    status = 422
    hint = "Use relative names with `/` between parts: no `..`, no leading `/`, no backslash or control character."


class FileDuplicate(MoorageError):
    """Two files have the same name."""

    status = 422
    hint = "Give each file a name of its own."


class BadArchive(MoorageError):
    """The archive cannot be used."""

    status = 422
    hint = "Use a plain .zip, .tar or .tar.gz of regular files and directories."


class ArchiveTooLarge(MoorageError):
    """The archive holds more than this node takes."""

    status = 413
    hint = "Ship large data as job inputs rather than with the app."


class IllegalTransition(MoorageError):
    """The state cannot change that way."""

    status = 409


class AppNotEditable(MoorageError):
    """From PUBLISHED on an app is pinned by its digest and never edited."""

    status = 409
    hint = "Add the changed files as a new app."


class AppUnavailable(MoorageError):
    """The app takes no jobs in its present state."""

    status = 409


class AppTampered(MoorageError):
    """The stored files of the app do not match its digest."""

    status = 409
    hint = "Add the app again from its source; the altered copy is not run."


class InstallFailed(MoorageError):
    """The app's environment could not be built."""

    status = 422
    hint = "Read the build log with `moorage app show`; fix requirements.txt and add the app again."


class VolumeTooSmall(MoorageError):
    """What a volume is to begin with is larger than the volume."""

    status = 422
    hint = "Raise its `size_mib`, or give it a smaller `parent`."


# Jobs


class Infeasible(MoorageError):
    """The job asks for more than this node will ever have."""

    status = 422


class JobFinished(MoorageError):
    """The job has ended already."""

    status = 409


class DependencyFailed(MoorageError):
    """A job that this one runs after did not succeed."""

    hint = "See why with `moorage job why`, then retry that job and submit this one again."


class QueueTimeout(MoorageError):
    """The job waited in the queue longer than its queue timeout."""

    retryable = True


class TotalTimeout(MoorageError):
    """The job took longer than its total timeout."""

    blames_app = True


class JobTimedOut(MoorageError):
    """The app ran longer than its execution timeout."""

    blames_app = True
    hint = "Raise --timeout, or make the app faster."


class JobCancelled(MoorageError):
    """Job cancelled"""  # noqa: D400, D415 - the contract's own text (InfraX contract, section 5.4)


class JobLost(MoorageError):
    """Job lost"""  # noqa: D400, D415 - the contract's own text (InfraX contract, section 5.4)

    hint = "The node stopped while the job ran; the app is not to blame. Retry it with `moorage job retry`."
    retryable = True


class JobCrashed(MoorageError):
    """The app failed."""

    blames_app = True
    hint = "Read what it said with `moorage job logs`."


class ContainerFailed(MoorageError):
    """A container gave no answer, or an error."""

    hint = "`moorage check SOURCE` tells where a container does not keep its network's contract."
    status = 422
    blames_app = True


class OutOfMemory(MoorageError):
    """The app used more memory than its limit."""

    blames_app = True
    hint = "Raise --memory, or make the app use less."


class DiskLimit(MoorageError):
    """The app wrote more into its work directory than its limit."""

    blames_app = True
    hint = "Raise --disk, or remove intermediate files while it runs."


class LogLimit(MoorageError):
    """The app wrote more to stdout or stderr than its limit."""

    hint = "Write bulk data to a file in output/ rather than to a stream."


class OutputsTooLarge(MoorageError):
    """The app left more in output/ than its limit."""

    blames_app = True
    hint = "Write fewer or smaller files, or raise the output limits."


class HostIsolationForbidden(MoorageError):
    """A job without isolation could do all that the node's user can, so only that user may ask for one."""

    status = 403
    hint = (
        'Submit it through the node\'s own socket, as `moorage` does without MOORAGE_URL, or set `isolation = "host"`.'
    )


class InputUnavailable(MoorageError):
    """An input file is not in the store."""

    status = 422
    hint = "Upload the file first; its digest is the sha256 of its bytes."


class InternalError(MoorageError):
    """The node itself failed."""

    hint = "This is a defect of Moorage: please report it with the node's log."
    retryable = True


class KwargBadKey(Invalid):
    """The name of a keyword argument cannot be passed on."""

    hint = "Use 1 to 256 characters: no leading `-`, no `=`, no blank and no control character."


class KwargInvalidText(Invalid):
    """A keyword argument holds something that cannot be passed on."""

    hint = "Remove NUL characters, lone surrogates, NaN and infinities, or upload the value as an input file."


class KwargTooLong(Invalid):
    """A keyword argument is longer than 1024 characters."""

    hint = "Upload the value as an input file; the app finds it in input/."


class KwargsBadType(Invalid):
    """The arguments have the wrong type."""

    hint = "`kwargs` is a JSON object and `args` a JSON list."


class KwargsTooLarge(Invalid):
    """There are more arguments than an app can be handed."""

    hint = "Upload large values as input files; the app finds them in input/."


class ArgumentsTooLong(MoorageError):
    """The arguments and environment are longer than this machine takes."""

    status = 422
    hint = "Send large values on standard input or as an input file."


class LeaseLost(MoorageError):
    """The attempt no longer holds the lease of its job: its result is refused."""

    status = 409


# The node and its machine


class BlobMismatch(MoorageError):
    """The bytes do not have the digest that was announced."""

    status = 422
    retryable = True


class DiskFull(MoorageError):
    """No space is left on the node's disk."""

    status = 507
    hint = "Free space in the data directory's file system, then retry."
    retryable = True


class AddressUnavailable(MoorageError):
    """The node cannot listen there."""

    status = 503
    hint = "Give another address with --host and --port; port 0 takes any that is free."


class DataDirectoryBusy(MoorageError):
    """Another node holds this data directory."""

    status = 503
    hint = "Stop it, or give this one another directory with --data-dir."


class DatabaseTooNew(MoorageError):
    """The database was written by a newer version of Moorage."""

    status = 503
    hint = "Upgrade Moorage, or use another --data-dir."


class StoreUnavailable(MoorageError):
    """The store cannot be used."""

    status = 503


class ServiceUnavailable(MoorageError):
    """A service that the job needs does not answer."""

    status = 503
    hint = "See what it said last with `moorage service list` and `moorage service logs KEY`."
    retryable = True


class AppNotReady(MoorageError):
    """The app has started, but does not answer."""

    status = 503
    hint = "Look at what it wrote, and give it more time with `ready_timeout` if it only needs longer."
    retryable = True
    blames_app = True


class AppExited(MoorageError):
    """The app ended before it had answered."""

    status = 502
    hint = "Look at what it wrote: `moorage job logs`."
    retryable = True
    blames_app = True


class SubtaskFailed(MoorageError):
    """The app could not compute a part of its task."""

    status = 502
    hint = "Look at what it wrote: `moorage job logs`."
    blames_app = True


class SubtaskOutputRefused(MoorageError):
    """What the app named as its result cannot be taken."""

    status = 502
    hint = "A result is one regular file in the app's own work directory."
    blames_app = True


class OutputsNotPublished(MoorageError):
    """The results cannot be put into the output directory of the task."""

    status = 422
    hint = "Make a place for them there, or name another `output_directory`."


class TaskAborted(MoorageError):
    """The task cannot come to an end."""

    status = 502
    hint = "See how its parts ended: `moorage golem task show`."
    blames_app = True


class EnvUnknown(MoorageError):
    """The app asks for an environment that this node does not have."""

    status = 422
    hint = "Run it on a node that has it, or change the app to use one that is here."


class PrerequisitesDenied(MoorageError):
    """This node has nothing for what the app needs to run."""

    status = 422
    hint = "Install what it names, or let the operator map it to something that is here."


class NoCapacity(MoorageError):
    """There is not enough memory for the program now."""

    status = 503
    hint = "Try again when less runs here, or raise `memory` in the node's configuration."
    retryable = True


class ProgramDied(MoorageError):
    """The program ended before it had answered."""

    status = 502
    hint = "See what it said last with `moorage job logs JOB`, or the program's log."
    blames_app = True


class ProgramNotStarted(MoorageError):
    """The program did not start."""

    status = 502
    hint = "See what it said with `moorage job logs JOB`."
    blames_app = True


class ProgramTimedOut(MoorageError):
    """The program did not answer in time."""

    status = 504
    hint = "Raise `resources.seconds` in its message, or let it answer sooner."
    blames_app = True


class ProgramFailed(MoorageError):
    """The program answered with an error."""

    status = 502
    hint = "See what it said with `moorage job logs JOB`."
    blames_app = True


class ProgramUnavailable(MoorageError):
    """There is no program here that could be called."""

    status = 404
    hint = "Publish it to this node, or run it from its message: `moorage run MESSAGE.json`."


class BadKey(MoorageError):
    """The node's own key cannot be read."""

    hint = "Restore the file from a copy. Without one remove it: the node makes a new key, and is another owner."


class RouterFailed(MoorageError):
    """The network's router did not answer as it should."""

    status = 502
    hint = "See whether `router_url` in the configuration is right and the router is up."
    retryable = True


class SandboxUnavailable(MoorageError):
    """This machine cannot make the sandbox that the job asks for."""

    status = 503
    hint = "Run `moorage doctor`; it says what is missing and how to mend it."


class UnknownIsolation(MoorageError):
    """No sandbox has this name."""

    status = 422
    hint = "Use `bubblewrap`, or `host` for no isolation."


class PythonNotFound(MoorageError):
    """The Python version that the app needs is not on this machine."""

    status = 503
    hint = "Install it (Debian: apt install python3.11 python3.11-venv), or run `uv python install 3.11`."


class NodeUnreachable(MoorageError):
    """No node answers there."""

    status = 503
    hint = "Start one with `moorage serve`, or unset MOORAGE_URL to run without a server."
    retryable = True


class NodeStopping(MoorageError):
    """The node is stopping and takes no new work."""

    status = 503
    retryable = True


class TokenRequired(MoorageError):
    """A node that listens beyond loopback needs a token."""

    status = 400
    hint = "Make one with `moorage token add NAME`, or listen on 127.0.0.1."


def error_for(code: str, status: int) -> type[MoorageError]:
    """Find the class of a code that a node has answered; codes unknown here get a class of their own."""
    pending = list(MoorageError.__subclasses__())
    while pending:
        found = pending.pop()
        if found.code == code:
            return found
        pending += found.__subclasses__()
    name = "".join(part.capitalize() for part in code.split("_"))
    return type(name, (MoorageError,), {"__doc__": "The node answered with an error.", "status": status})
