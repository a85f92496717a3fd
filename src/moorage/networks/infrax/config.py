"""What the operator says of the network's own surface: `[networks.infrax]` in the node's configuration.

The tables of the network's own `config.toml` (contract, section 3.2) may be pasted below it as they are.
"""

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, StringConstraints, model_validator

from moorage.model.jobs import JSON
from moorage.networks.infrax.wire import NodeDef, Spec
from moorage.networks.manifest import Table, validated

FILE = "configuration"
IMPORTED = ("host", "compute_node")
"""Tables of the network's own file whose keys are ours under the same names."""
IGNORED = ("internal_ip", "local_ip", "internal_port", "app_dir")
"""Keys of those tables that this node has other ways to say."""


def gigabytes(value: Any) -> Any:
    """Read `"32GB"` as 32; numbers pass unchanged."""
    return value[:-2].strip() if isinstance(value, str) and value.upper().endswith("GB") else value


Gigabytes = Annotated[int, BeforeValidator(gigabytes), Field(ge=0)]
Source = Annotated[IPv4Network | IPv6Network, PlainValidator(ip_network)]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+")]


class FloatTypes(Table):
    """Which number formats this machine computes with."""

    FP80: bool = False
    FP64: bool = False
    FP32: bool = False
    FP16: bool = False
    FP8: bool = False
    FP4: bool = False
    BF16: bool = False
    TF32: bool = False
    NF4: bool = False


class SurfaceConfig(Table):
    """Lets an InfraX router drive this node; off unless `surface = true`."""

    surface: bool = False
    slots: Annotated[int, Field(ge=1)] = 1
    """How many of the router's requests are worked on at once; the network's own nodes have one."""
    router_url: Url | None = None
    eth_address: str | None = None
    external_port: Annotated[int, Field(ge=1, le=65535)] = 8420
    """Port at which the router reaches this node."""
    cpu: str | None = None
    gpu: str | None = None
    ram: Gigabytes = 0
    vram: Gigabytes = 0
    float_types: FloatTypes = FloatTypes()
    allowed_sources: tuple[Source, ...] = ()
    """Addresses that need no token here."""

    @model_validator(mode="before")
    @classmethod
    def _imported(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        flat = dict(values)
        for table in IMPORTED:
            if isinstance(values.get(table), Mapping):
                flat |= {key: value for key, value in flat.pop(table).items() if key not in IGNORED}
        if flat.pop("local_only", False):
            flat["surface"] = False  # it means: no router
        return flat

    @model_validator(mode="after")
    def _complete(self) -> "SurfaceConfig":
        missing = [key for key in ("router_url", "eth_address") if getattr(self, key) is None]
        if self.surface and missing:
            raise ValueError(f"`surface = true` needs {' and '.join(missing)}")
        return self

    @property
    def node_def(self) -> NodeDef:
        """What the router is told of this machine."""
        spec = Spec(ram=self.ram, vram=self.vram, **self.float_types.model_dump())
        return NodeDef(eth_address=self.eth_address or "", spec=spec, cpu=self.cpu, gpu=self.gpu)


def read_config(table: Mapping[str, JSON]) -> SurfaceConfig:
    """Read the operator's table.

    Raises BadManifest naming the key and, for an unknown one, the nearest known.
    """
    return validated(SurfaceConfig, table, file=FILE, under="networks.infrax")
