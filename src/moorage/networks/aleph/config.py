"""What an operator can say about Aleph: `[networks.aleph]` in the node's configuration."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, IPvAnyNetwork, StringConstraints

from moorage.model.limits import MIB
from moorage.networks.manifest import Table

DEFAULT_RUNTIME = "63f07193e6ee9d207b7d1fcf8286f9aee34e6f12f101d2ec77c1229f92964696"
"""What programs made by the network's SDK name as their runtime (contract, section 2.3)."""


class Registration(Table):
    """`[networks.aleph.registration]`: what the network knows this node as, if it does."""

    owner: Annotated[str | None, Field(description="Address of the node's owner.")] = None
    address: Annotated[str | None, Field(description="URL of the node.")] = None
    node_hash: Annotated[str | None, Field(description="Hash by which the network names the node.")] = None
    terms_and_conditions: Annotated[
        str | None, Field(description="Item hash of the terms and conditions of the node.")
    ] = None


class Settings(Table):
    """`[networks.aleph]`."""

    public: bool = Field(
        False,
        description="Whether everybody who reaches the port may publish and call programs, as on the network, pages of "
        "all sites included. Otherwise it is as with the node's own API, but that programs answer for themselves: on "
        "loopback, while there is no token, pages of all sites may call them, also by the programs' own host names.",
    )
    runtimes: dict[str, str] = Field(
        default_factory=dict,
        description="Item hash of a runtime to what stands for it: `python` is the built-in one, a path that of a root "
        "file system (a directory, squashfs or tar), `image:NAME` one from the container engine. Executables run on it "
        "alone; ASGI programs with the node's Python shown in it, which must find its C library there.",
    )
    packages: Path | None = Field(
        None, description="A requirements file with the packages of the built-in runtime, in place of its own."
    )
    domains: dict[Annotated[str, StringConstraints(to_lower=True)], str] = Field(
        default_factory=dict, description="Host name to the item hash of its program."
    )
    addresses: dict[str, str] = Field(
        default_factory=dict, description="For old programs that name their code by an address: its item hash."
    )
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (), description="Addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are believed."
    )
    registration: Registration = Field(
        default_factory=Registration,
        description="What the network knows this node as. Programs with `requirements.node` run where that fits.",
    )
    idle_timeout: Annotated[float, Field(ge=0)] = Field(
        3600.0, description="Seconds without a request after which a program is stopped; 0 is after each one."
    )
    start_timeout: Annotated[float, Field(gt=0)] = Field(
        20.0, description="Seconds that a program has to be imported, or to listen on port 8080."
    )
    traceback: Literal["hidden", "public"] = Field(
        "hidden", description="Whether callers see the traceback of a program that failed, or its owner only."
    )
    max_body: Annotated[int, Field(gt=0)] = Field(100 * MIB, description="Bytes of a request's body.")
