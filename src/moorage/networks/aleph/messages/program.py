"""A program as this node knows it, whichever form it was written in (contract, sections 2.4, 2.5 and 3.5)."""

import posixpath
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo
from pydantic_core import PydanticCustomError

from moorage.networks.aleph.messages.hashes import hash_kind

MAX_TIME = 9_223_372_036.0
"""Unix seconds; the year 2262."""
MAX_EPHEMERAL, MAX_PERSISTENT = 1000, 1_953_125
"""MiB of a volume; the second is 2048 GB."""
HEADS = (b"#!", b"\x7fELF")
"""How a plain file starts that runs by itself."""

_ADDRESS = re.compile(r"0x[0-9A-Fa-f]{40}")

Generation = Literal["draft-1", "draft-2", "hybrid", "accepted"]
"""Which form a document has; see drafts.py."""
Interface = Literal["asgi", "binary"]
Chain = Literal[
    "ARB", "AURORA", "AVAX", "BASE", "BLAST", "BOB", "BSC", "CSDK", "CYBER", "DOT", "ES", "ETH", "ETHERLINK", "FRAX",
    "HYPE", "INK", "LENS", "LINEA", "LISK", "METIS", "MODE", "NEO", "NULS", "NULS2", "OP", "POL", "SOL", "STT", "SONIC",
    "TEZOS", "UNICHAIN", "WLD", "ZORA",
]  # fmt: skip


def is_address(text: str) -> bool:
    """Tell whether a reference is an address, `0x` and 40 hex digits: an alias that is still to be resolved."""
    return _ADDRESS.fullmatch(text) is not None


def _item_hash(text: str) -> str:
    if hash_kind(text) is None:
        hint = "write hexadecimal in lower case" if hash_kind(text.lower()) == "storage" else None
        reason = "must be an item hash: 64 lower-case hex digits, or a CID (Qm…, bafy…)"
        raise PydanticCustomError("item_hash", reason, {"hint": hint})
    return text


def _reference(text: str, info: ValidationInfo) -> str:
    """Take an address too where the document is no accepted form: the drafts named the emitter of the code."""
    if info.context and info.context["aliases"] and is_address(text):
        return text
    return _item_hash(text)


def _also(spellings: Mapping[str, str]) -> BeforeValidator:
    return BeforeValidator(lambda value: spellings.get(value, value) if isinstance(value, str) else value)


ItemHash = Annotated[str, AfterValidator(_item_hash)]
Reference = Annotated[str, AfterValidator(_reference)]
"""An item hash; in the drafts and hybrids also an address."""
Label = Annotated[str, Field(max_length=256)]
Encoding = Annotated[Literal["plain", "zip", "squashfs", "tar.gzip"], _also({"tar.gz": "tar.gzip"})]
Variables = Mapping[Annotated[str, Field(max_length=128)], Annotated[str, Field(max_length=4096)]]
Subscription = Annotated[Mapping[str, Any], Field(max_length=32)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """`code`."""

    encoding: Encoding
    entrypoint: str
    ref: Reference
    """Of inline code the sha256 of its text."""
    interface: Annotated[Interface | None, _also({"executable": "binary"})] = None
    """None: see the function `interface`."""
    args: tuple[str, ...] = ()
    use_latest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggers:
    """`on`: what starts a run."""

    http: bool
    message: tuple[Subscription, ...] = ()
    persistent: bool = False
    cron: str | None = None
    """Five fields, in UTC (section 2.10)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """`environment`."""

    reproducible: bool = False
    internet: bool = False
    aleph_api: bool = False
    shared_cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """One entry of `resources.published_ports`."""

    port: Annotated[int, Field(ge=1, le=65535)]
    protocol: Literal["tcp", "udp"] = "tcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """`resources`."""

    vcpus: Annotated[int, Field(ge=1, le=256)] = 1
    memory: Annotated[int, Field(ge=1, le=1_048_576)] = 128
    """MiB."""
    seconds: Annotated[int, Field(ge=1, le=315_360_000)] = 1
    """Time for one request, not for the life of the program."""
    published_ports: tuple[PublishedPort, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """`runtime`."""

    ref: Reference
    comment: str
    use_latest: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """`data`: what the program finds unpacked at `mount`, and at `/data`."""

    encoding: Encoding
    mount: str
    ref: Reference
    use_latest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """`export`: what is archived after each run."""

    encoding: Encoding
    mount: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImmutableVolume:
    """A volume with the contents of a file, read-only."""

    ref: ItemHash
    use_latest: bool = True
    comment: Label | None = None
    mount: Label | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EphemeralVolume:
    """A volume that is empty at every start."""

    size_mib: Annotated[int, Field(strict=True, ge=1, le=MAX_EPHEMERAL)]
    ephemeral: Literal[True] = True
    comment: Label | None = None
    mount: Label | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """`parent`: what a new persistent volume holds at first."""

    ref: ItemHash
    use_latest: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistentVolume:
    """A volume that survives restarts."""

    size_mib: Annotated[int, Field(strict=True, ge=1, le=MAX_PERSISTENT)]
    name: Label | None = None
    persistence: Literal["host", "store"] | None = None
    """None is `host`."""
    parent: Parent | None = None
    comment: Label | None = None
    mount: Label | None = None


def volume_kind(volume: Any) -> str | None:
    """Tell of what kind a declared volume is, by its keys; None where nothing tells."""
    if not isinstance(volume, dict):
        return "persistent"  # any kind refuses it
    if "ref" in volume:
        return "immutable"
    if "ephemeral" in volume:
        return "ephemeral"
    if not volume.keys().isdisjoint({"name", "persistence", "parent"}):
        return "persistent"
    if "size_mib" not in volume:
        return None
    size = volume["size_mib"]
    return "persistent" if isinstance(size, int) and size > MAX_EPHEMERAL else "ephemeral"


Volume = Annotated[
    Annotated[ImmutableVolume, Tag("immutable")]
    | Annotated[EphemeralVolume, Tag("ephemeral")]
    | Annotated[PersistentVolume, Tag("persistent")],
    Discriminator(
        volume_kind, custom_error_type="volume_kind", custom_error_message="must have either `ref` or `size_mib`"
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """`payment`: kept, never charged."""

    type: Literal["hold", "superfluid", "credit"]
    chain: Chain | None = None
    receiver: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuRequirements:
    """`requirements.cpu`."""

    architecture: Literal["x86_64", "arm64"] | None = None
    vendor: str | None = None
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRequirements:
    """`requirements.node`."""

    owner: str | None = None
    address_regex: Label | None = None
    node_hash: ItemHash | None = None
    terms_and_conditions: ItemHash | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRequirements:
    """One entry of `requirements.gpu`."""

    vendor: str
    device_name: str
    device_class: Literal["0300", "0302"]
    device_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """`requirements`: what the node must be."""

    cpu: CpuRequirements | None = None
    node: NodeRequirements | None = None
    gpu: tuple[GpuRequirements, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A valid program; its fields are the keys of the accepted form, but for the last two."""

    address: str
    """Its owner."""
    time: Annotated[float, Field(ge=0, le=MAX_TIME, allow_inf_nan=False)]
    type: Literal["vm-function"]
    allow_amend: bool
    code: Code
    on: Triggers
    environment: Environment
    resources: Resources
    runtime: Runtime
    data: Data | None = None
    export: Export | None = None
    variables: Annotated[Variables, Field(max_length=256)] = field(default_factory=dict, repr=False)
    authorized_keys: Annotated[tuple[Annotated[str, Field(max_length=8192)], ...], Field(max_length=256)] = ()
    metadata: Annotated[Mapping[str, Any], Field(max_length=256)] = field(default_factory=dict)
    volumes: Annotated[tuple[Volume, ...], Field(max_length=256)] = ()
    replaces: Annotated[str, Field(max_length=128)] | None = None
    """The hash of the program that this one is a new version of; any text may stand here."""
    payment: Payment | None = None
    requirements: Requirements | None = None
    generation: Generation = "accepted"
    inline: bool = False
    """Whether the document itself holds the code."""


def interface(program: Program) -> Interface | None:
    """Tell how the node talks to a program; None where its code must be looked at.

    That is plain code, see `interface_of_plain`, and an archive of a draft: its entrypoint is a file of it, or else
    an attribute of a module (section 2.4).
    """
    code = program.code
    if code.interface is not None:
        return code.interface
    if program.inline or ":" in code.entrypoint:
        return "asgi"
    drafted = program.generation in ("draft-1", "draft-2") and code.encoding in ("zip", "tar.gzip")
    return None if drafted or code.encoding == "plain" else "binary"


def interface_of_plain(code: bytes) -> Interface:
    """Tell the interface of plain code where neither document nor entrypoint does; the first bytes suffice."""
    return "binary" if code.startswith(HEADS) else "asgi"


def command(code: Code) -> tuple[str, ...]:
    """Split an entrypoint as a shell would, for when no file has it as its exact name, and append the arguments."""
    try:
        words = shlex.split(code.entrypoint) or [code.entrypoint]
    except ValueError:  # an open quote
        words = [code.entrypoint]
    return (*words, *code.args)


def volume_name(volume: Volume, index: int) -> str:
    """Name a volume by what it is called, or by its index in the list, as a file name."""
    name = volume.name if isinstance(volume, PersistentVolume) else None
    return re.sub(r"[^\w-]", "_", name) if name else f"unamed_volume_{index}"  # spelt so on the network


def volume_mounts(program: Program) -> tuple[str, ...]:
    """List where the volumes are mounted, in their order; `/mnt/` and the name where nothing is said."""
    return tuple(
        _absolute(volume.mount or f"/mnt/{volume_name(volume, index)}") for index, volume in enumerate(program.volumes)
    )


def data_mounts(program: Program) -> tuple[str, ...]:
    """List where the data is found: where the program says, and at `/data` (section 2.5)."""
    return tuple(dict.fromkeys((_absolute(program.data.mount), "/data"))) if program.data else ()


def export_mount(program: Program) -> str | None:
    """Tell which directory is archived after each run."""
    return _absolute(program.export.mount) if program.export else None


_IN_TARGETS = "/?%&=:@!$'()*+,;"
"""What the target of a request has as it is, beside letters, digits and `-._~` (RFC 3986, section 3.4)."""


def cron_path(program: Program) -> str:
    """Tell which path the program is asked for at a time of its `on.cron`; `/` unless `metadata.cron_path` says so."""
    path = program.metadata.get("cron_path")
    return quote(f"/{path.lstrip('/')}", safe=_IN_TARGETS) if isinstance(path, str) else "/"


def _absolute(mount: str) -> str:
    """Give the one spelling of a path, which no `..` leads out of the root."""
    return posixpath.normpath(f"/{mount.lstrip('/')}")
