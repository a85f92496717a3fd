"""An Infernet node's `config.json` (contract, section 3.1), and what this node adds to it."""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import from_json

from moorage.blobs.names import shown
from moorage.errors import AddressUnavailable, BadManifest, SourceNotFound
from moorage.model.limits import GIB, MIB
from moorage.networks.manifest import Count, Size, unknown_key

CURVE_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Private keys of Ethereum lie below it."""
LOG_SIZE, MAX_BODY = ByteSize(GIB), ByteSize(16 * MIB)
FALLBACK_PORTS = range(3999, 1023, -1)
"""Host ports for containers whose own is taken, in this order."""
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


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic reports a ValueError with its place
    return value


def _null_if_blank(value: Any) -> Any:
    return None if value == "" else value


def _text(pattern: str, reason: str) -> AfterValidator:
    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(reason)
        return value

    return AfterValidator(check)


def _hex(value: str, *, size: int) -> str:
    digits = value.lower().removeprefix("0x")
    if re.fullmatch(f"[0-9a-f]{{{2 * size}}}", digits) is None:
        raise ValueError(f"must be {size} bytes in hex: 0x and {2 * size} digits")
    return f"0x{digits}"


def _private_key(value: str) -> str:
    key = _hex(value, size=32)
    if not 0 < int(key, 16) < CURVE_ORDER:
        raise ValueError("is no valid private key")
    return key


def _source(value: Any) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(value if isinstance(value, str) else "", strict=False)
    except ValueError:
        raise ValueError("must be an IP address or a range such as 10.0.0.0/8") from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return IPv4Network((mapped, network.prefixlen - 96))


def _words(value: Any) -> list[str]:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("must be a string as a shell would take it")
    return shlex.split(value)


def _environment(value: Any) -> dict[str, str]:
    """Render values as the peer's container client does: Python's `str`, and nothing at all for null."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004 - pydantic reports a ValueError with its place
    rendered = {name: str(item) for name, item in value.items() if item is not None}
    if any(not name or "=" in name or "\0" in name + text for name, text in rendered.items()):
        raise ValueError("a name is empty or holds `=`, or a name or value holds a NUL character")
    return rendered


def _folder(value: Path, info: ValidationInfo) -> Path:
    assert info.context is not None
    folder: Path = info.context["base"] / value
    try:
        found = folder.is_dir()
    except OSError:  # a name that is too long, a folder that is not ours to look into
        found = False
    if not found:
        raise ValueError("must be a folder; a relative path counts from where the file is")
    return folder.absolute()


_NUMBER = BeforeValidator(_no_switch)
_BLANK = BeforeValidator(_null_if_blank)
_BASE = AfterValidator(lambda url: url.rstrip("/"))  # paths are appended to it

Whole = Annotated[int, Field(ge=0), _NUMBER]
Positive = Annotated[Count, _NUMBER]
Pause = Annotated[float, Field(ge=0, allow_inf_nan=False), _NUMBER]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False), _NUMBER]
Bytes = Annotated[Size, Field(lt=2**63), _NUMBER]
Port = Annotated[int, Field(ge=1, le=65535), _NUMBER]
Address = Annotated[str, AfterValidator(partial(_hex, size=20))]
"""An Ethereum address, `0x` and small letters whatever the file has."""
PrivateKey = Annotated[str, AfterValidator(_private_key)]
Source = Annotated[IPv4Network | IPv6Network, PlainValidator(_source)]
"""A range of client addresses; IPv4 in IPv6 is IPv4."""
ContainerId = Annotated[str, _text(r"[^,\s\x00-\x1f\x7f]+", "must have at least one character, and no comma or blank")]
Url = Annotated[str, _text(r"(https?://[^/\s]\S*)?", "must start with http:// or https:// and a host"), _BASE]
RpcUrl = Annotated[str, _text(r"(https?|wss?)://[^/\s]\S*", "must start with http(s):// or ws(s):// and a host")]
Bearer = Annotated[str, _text(r"[!-~]*", "must be visible ASCII characters without blanks")]
HealthPath = Annotated[str, _text(r"/[!-~]*", "must start with `/` and have no blank")]


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
    network: Literal["none", "internet"] = "none"
    """What it may reach."""
    directory: Annotated[Annotated[Path, AfterValidator(_folder)] | None, _BLANK] = None
    """A local folder to run `command` in, instead of an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One entry of `containers`."""

    id: ContainerId
    image: str = ""
    url: Url = ""
    bearer: Bearer = field(default="", repr=False)
    port: Port = 3000
    """The host port that the operator wants; see `assign_ports`."""
    external: bool = True
    """Whether it may be first in a request."""
    gpu: bool = False
    accepted_payments: Mapping[Address, Annotated[Whole, Field(lt=2**256)]] = field(default_factory=dict)
    """Token to least amount; the zero address is ETH. Empty: everything is accepted, also what is unpaid."""
    allowed_ips: tuple[Source, ...] = ()
    allowed_addresses: tuple[Address, ...] = ()
    allowed_delegate_addresses: tuple[Address, ...] = ()
    description: str = ""
    command: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    env: Annotated[Mapping[str, str], BeforeValidator(_environment)] = field(default_factory=dict, repr=False)
    volumes: tuple[str, ...] = ()
    generates_proofs: bool = False
    moorage: Extras = Extras()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """`chain.wallet`."""

    private_key: Annotated[PrivateKey | None, _BLANK] = field(default=None, repr=False)
    max_gas_limit: Positive = 5_000_000
    """Gas of a transaction only where its simulation failed and `allowed_sim_errors` let it pass."""
    payment_address: Annotated[Address | None, _BLANK] = None
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
    rpc_url: Annotated[RpcUrl | None, _BLANK] = field(default=None, repr=False)  # often holds an API key
    trail_head_blocks: Whole = 1
    registry_address: Annotated[Address | None, _BLANK] = None
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

    port: Annotated[int, Field(ge=0, le=65535), _NUMBER] = 4000
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    rate_limit: RateLimit = RateLimit()
    max_body: Bytes = MAX_BODY
    max_batch: Positive = 1000
    max_queue: Positive = 10_000
    """Jobs that may wait; further ones are refused."""


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
    document = _parse(path)
    warnings = tuple(f"{path}: {warning}" for warning in _warnings(document))
    problems = dict(_missing(document))
    try:
        config = _adapter().validate_python({**document, "warnings": warnings}, context={"base": path.parent})
    except ValidationError as error:
        problems |= {_where(_place(item["loc"], document)): _reason(item) for item in error.errors(include_url=False)}
    if problems:
        raise BadManifest("\n".join(f"{path}: `{key}`: {reason}." for key, reason in problems.items()))
    return config


def assign_ports(wanted: Iterable[int], taken: Callable[[int], bool]) -> tuple[int, ...]:
    """Give each container, in order, its own host port: the wanted one or the first free from 3999 down (section 2.1).

    `taken` tells of a port whether something else on this machine has it.
    Raises AddressUnavailable.
    """
    assigned: list[int] = []
    for port in wanted:
        free = (other for other in (port, *FALLBACK_PORTS) if other not in assigned and not taken(other))
        chosen = next(free, None)
        if chosen is None:
            raise AddressUnavailable(f"Port {port} is taken, and so is every one from 3999 down to 1024.")
        assigned.append(chosen)
    return tuple(assigned)


@cache
def _adapter() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


def _parse(path: Path) -> dict[str, Any]:
    try:
        document = from_json(path.read_bytes(), allow_inf_nan=False)
    except FileNotFoundError:
        raise SourceNotFound(f"There is no configuration file {path}.") from None
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
                yield f"{' and '.join(given)} are ignored: manage_containers is true, so the node runs it itself"


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
