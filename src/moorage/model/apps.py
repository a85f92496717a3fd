"""Installed code of one network."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from moorage.model.jobs import JSON, ErrorInfo
from moorage.model.states import AppState


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """One app; times are Unix seconds.

    `digest` names its files (InfraX contract, section 1.3) and the source layer that holds them.
    """

    id: str
    network: str
    name: str
    owner: str
    state: AppState
    digest: str
    size: int
    files: int
    manifest: Mapping[str, JSON] = field(default_factory=dict)
    """What its network read from the source, as JSON."""
    meta: Mapping[str, JSON] = field(default_factory=dict)
    """What its author says of it; InfraX: `kwargs` holds defaults."""
    layers: Mapping[str, str] = field(default_factory=dict)
    """Layers that its installation made: role (such as `python`) to layer name."""
    deploy: bool = True
    """Whether the node installs it and moves it to TESTING by itself."""
    published: bool = False
    """Whether it was ever published."""
    created_at: float = 0.0
    updated_at: float = 0.0
    seq: int = 0
    """Number of the last event of its history."""
    error: ErrorInfo | None = None
