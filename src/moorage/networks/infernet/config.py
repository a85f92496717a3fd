"""An Infernet node's `config.json` (contract, section 3.1), and what this node adds to it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import from_json

from moorage.blobs.names import shown
from moorage.errors import BadManifest, SourceNotFound
from moorage.model.limits import GIB, MIB
from moorage.networks.infernet.fields import (
    BLANK,
    NUMBER,
    Address,
    Amount,
    Bearer,
    Bytes,
    ContainerId,
    Folder,
    HealthPath,
    Pause,
    Port,
    Positive,
    PrivateKey,
    RpcUrl,
    Source,
    Url,
    Variables,
    Whole,
    Words,
)
from moorage.networks.manifest import unknown_key

LOG_SIZE, MAX_BODY = ByteSize(GIB), ByteSize(16 * MIB)
FLAT = (
    "timeout", "stream_idle_timeout", "stream_timeout", "start_timeout", "health_path", "concurrency", "memory",
    "cpus", "pids", "string_output", "accept_error_status",
)  # fmt: skip
"""Keys of a container's `moorage` table that may also stand in the container itself."""
IGNORED = {
    "redis": "jobs and results are kept in the node's own store",
    "forward_stats": "nothing is reported to anyone",
    "log_path": "use `log.path`",
}
"""Top-level keys that have no meaning here, and what there is in their place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """A container's `moorage` table: what only this node lets the operator say."""

    timeout: Amount = 180.0
    """Seconds an answer may take."""
    stream_idle_timeout: Amount = 60.0
    stream_timeout: Amount = 3600.0
    start_timeout: Amount = 300.0
    """Seconds after which a container that does not answer yet is started anew."""
    health_path: HealthPath = "/"
    concurrency: Positive = 16
    """Requests it is given at once; others wait."""
    memory: Bytes | None = None
    """Bytes; here and for the next two None is the node's own choice."""
    cpus: Amount | None = None
    pids: Positive | None = None
    string_output: Literal["python_repr", "json"] = "python_repr"
    """How an object is put into a string on chain (section 3.8)."""
    accept_error_status: bool = False
    """Whether JSON with an error status counts as an output (section 3.3)."""
    isolation: Annotated[str, Field(min_length=1)] | None = None
    """Name of a sandbox; None is the node's own choice."""
    network: Literal["none", "internet"] | None = None
    """What it may reach; None is `internet` for an image, as on the network's own node, and `none` for a folder."""
    directory: Annotated[Folder | None, BLANK] = None
    """A local folder to run `command` in, instead of an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One entry of `containers`."""

    id: ContainerId
    image: str = ""
    url: Url = ""
    bearer: Bearer = field(default="", repr=False)
    port: Port = 3000
    """The host port that the operator wants; see ports.py."""
    external: bool = True
    """Whether it may be first in a request."""
    gpu: bool = False
    accepted_payments: Mapping[Address, Annotated[Whole, Field(lt=2**256)]] = field(default_factory=dict)
    """Token to least amount; the zero address is ETH. Empty: everything is accepted, also what is unpaid."""
    allowed_ips: tuple[Source, ...] = ()
    allowed_addresses: tuple[Address, ...] = ()
    allowed_delegate_addresses: tuple[Address, ...] = ()
    description: str = ""
    command: Words = ()
    env: Variables = field(default_factory=dict, repr=False)
    volumes: tuple[str, ...] = ()
    generates_proofs: bool = False
    moorage: Extras = Extras()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """`chain.wallet`."""

    private_key: Annotated[PrivateKey | None, BLANK] = field(default=None, repr=False)
    max_gas_limit: Positive = 5_000_000
    """Gas of a transaction only where its simulation failed and `allowed_sim_errors` let it pass."""
    payment_address: Annotated[Address | None, BLANK] = None
    allowed_sim_errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSync:
    """`chain.snapshot_sync`; times in seconds."""

    sleep: Pause = 1.0
    batch_size: Positive = 500
    starting_sub_id: Whole = 0
    sync_period: Amount = 0.5


def _object(value: Any) -> Any:
    return {} if value is None else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """`chain`; once `enabled`, `rpc_url`, `registry_address` and `wallet.private_key` are there."""

    enabled: bool = False
    rpc_url: Annotated[RpcUrl | None, BLANK] = field(default=None, repr=False)  # often holds an API key
    trail_head_blocks: Whole = 1
    registry_address: Annotated[Address | None, BLANK] = None
    wallet: Annotated[Wallet, BeforeValidator(_object)] = Wallet()
    snapshot_sync: SnapshotSync = SnapshotSync()


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    """`docker`: credentials for the image registry."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """`log`: a rotating file of JSON lines."""

    path: str = "infernet_node.log"
    max_file_size: Bytes = LOG_SIZE
    backup_count: Whole = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """`server.rate_limit`: requests per `period` seconds for each route and client."""

    num_requests: Positive = 60
    period: Amount = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """`server`."""

    port: Annotated[int, Field(ge=0, le=65535), NUMBER] = 4000
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    rate_limit: RateLimit = RateLimit()
    max_body: Bytes = MAX_BODY
    max_batch: Positive = 1000
    max_queue: Positive = 10_000
    """Jobs that may wait for the same first container; further ones are refused."""
    trusted_proxies: tuple[Source, ...] = ()
    """Whose `X-Forwarded-For` tells the client's address; otherwise it is that of the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """`results`: how long, in seconds, and how many finished jobs are kept."""

    ttl: Amount = 7 * 86_400.0
    max: Positive = 100_000


def _gathered(container: Any) -> Any:
    """Put what stands flat into the `moorage` table, whose own spelling wins."""
    if not isinstance(container, dict) or not isinstance(container.get("moorage", {}), dict):
        return container
    flat = {key: container[key] for key in FLAT if key in container}
    return {**container, "moorage": {**flat, **container.get("moorage", {})}}


def _usable(docker: Docker | None) -> Docker | None:
    return docker if docker and docker.username and docker.password else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file."""

    containers: tuple[Annotated[Container, BeforeValidator(_gathered)], ...] = ()
    manage_containers: bool = True
    chain: Chain = Chain()
    docker: Annotated[Docker | None, AfterValidator(_usable)] = None
    log: Log | None = None
    """None where the file has no such table: then no log file was asked for."""
    server: Server = Server()
    startup_wait: Pause = 5.0
    """Seconds for which a container that does not answer yet is not reported as late."""
    results: Results = Results()
    status_sources: tuple[Source, ...] = tuple(
        map(ip_network, ("127.0.0.1", "::1", "172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16", "192.168.0.0/16"))
    )
    """Who may push the state of a job (section 4.8)."""
    warnings: tuple[str, ...] = ()
    """What the file says in vain; no key of the file."""


def read(path: Path) -> Config:
    """Read and validate a file.

    Raises SourceNotFound; BadManifest with one line for each bad key (section 2.1), never with a secret.
    """
    return parse(load(path), path)


def parse(document: Mapping[str, Any], path: Path) -> Config:
    """Validate what a file holds.

    Raises BadManifest.
    """
    warnings = tuple(f"{path}: {warning}" for warning in _warnings(document))
    problems = dict(_missing(document))
    try:
        config = _adapter().validate_python({**document, "warnings": warnings}, context={"base": path.parent})
    except ValidationError as error:
        problems |= {_where(_place(item["loc"], document)): _reason(item) for item in error.errors(include_url=False)}
    if problems:
        raise BadManifest("\n".join(f"{path}: `{key}`: {reason}." for key, reason in problems.items()))
    return config


@cache
def _adapter() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


def load(path: Path) -> dict[str, Any]:
    """Read a file's JSON object.

    Raises SourceNotFound, BadManifest.
    """
    try:
        document = from_json(path.read_bytes(), allow_inf_nan=False)
    except FileNotFoundError:
        hint = "Check its path; a relative one counts from the working directory."
        raise SourceNotFound(f"There is no configuration file {path}.", hint=hint) from None
    except OSError as error:
        raise BadManifest(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise BadManifest(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(document, dict):
        raise BadManifest(f"{path} must hold a JSON object.")
    return document


def _missing(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Find what one key needs of another.

    It looks at the raw document, so that it finds all there is also where other keys are bad.
    """
    yield from _missing_for_chain(_table(document.get("chain")))
    managed = _is_on(document.get("manage_containers", True))
    first: dict[str, str] = {}
    for place, container in _containers(document):
        name = container.get("id")
        if isinstance(name, str) and first.setdefault(name, place) != place:
            yield f"{place}.id", f"{shown(name)} is the id of {first[name]} already"
        if managed:
            yield from _missing_for_start(place, container)


def _missing_for_chain(chain: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not _is_on(chain.get("enabled", False)):
        return
    needed = {
        **{key: chain.get(key) for key in ("rpc_url", "registry_address", "wallet")},
        "wallet.private_key": _table(chain.get("wallet")).get("private_key"),
    }
    for key, value in needed.items():
        if value in (None, "", {}):
            yield f"chain.{key}", f"{key} must be defined when chain is enabled"


def _missing_for_start(place: str, container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if _table(container.get("moorage")).get("directory"):
        if not container.get("command"):
            yield f"{place}.command", "command must be defined when moorage.directory is set"
    elif not container.get("image"):
        yield f"{place}.image", "image must be defined when manage_containers is set to true"


def _warnings(document: Mapping[str, Any]) -> Iterator[str]:
    yield from _unknown_keys(document, Config)
    ignored = [key for key in IGNORED if key in document]
    if ignored:
        yield "no meaning here: " + ", ".join(f"`{key}` ({IGNORED[key]})" for key in ignored)
    docker = _table(document.get("docker"))
    if (docker.get("username") == "") != (docker.get("password") == ""):
        yield "`docker`: a name or password is empty, so images are fetched without credentials"
    if _is_on(document.get("manage_containers", True)):
        for place, container in _containers(document):
            given = [f"`{place}.{key}`" for key in ("url", "bearer") if container.get(key)]
            if given:
                verb = "is" if len(given) == 1 else "are"
                yield f"{' and '.join(given)} {verb} ignored: manage_containers is true, so the node runs it itself"


def _unknown_keys(table: Any, shape: type, *place: str | int) -> Iterator[str]:
    if isinstance(table, list):
        for index, item in enumerate(table):
            yield from _unknown_keys(item, shape, *place, index)
    if not isinstance(table, dict):
        return
    hints = get_type_hints(shape)
    known = _keys(shape)
    for key, value in table.items():
        inner = _dataclass_in(hints.get(key))
        if key not in known:
            yield unknown_key(_where((*place, key)), known)
        elif inner is not None:
            yield from _unknown_keys(value, inner, *place, key)


def _keys(shape: type) -> set[str]:
    also = {Config: tuple(IGNORED), Container: FLAT}
    return {item.name for item in fields(shape)}.union(also.get(shape, ())) - {"warnings"}


def _dataclass_in(hint: Any) -> type | None:
    return next((each for each in (hint, *get_args(hint)) if is_dataclass(each) and isinstance(each, type)), None)


def _containers(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    listed = document.get("containers")
    for index, container in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(container, dict):
            yield f"containers[{index}]", container


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_on(value: Any) -> bool:
    """Read a switch as the file's own reader does; what is no switch is reported by that one."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return False


def _place(where: tuple[str | int, ...], document: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Find a problem's place in the file: `_gathered` has moved what stands flat."""
    match where:
        case ("containers", int(index), "moorage", str(key), *_):
            if key not in document["containers"][index].get("moorage", {}):
                return (*where[:2], *where[3:])
    return where


def _where(place: Iterable[str | int]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{_name(part)}" for part in place if part != "[key]")
    return "".join(parts).removeprefix(".")


def _name(key: str) -> str:
    return key if key.isprintable() and len(key) <= 200 else shown(key)


def _reason(problem: Any) -> str:
    words = {
        "missing": "is missing",
        "dataclass_type": "must be an object",
        "dict_type": "must be an object",
        "tuple_type": "must be a list",
    }
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return words.get(problem["type"], str(problem["msg"]))
