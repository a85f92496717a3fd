"""What a node tells of itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from moorage.engine.base import Place
from moorage.model.states import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """What a node tells of itself."""

    version: str
    started_at: float
    data_dir: str
    isolation: str
    networks: tuple[str, ...]
    places: tuple[Place, ...]
    jobs: Mapping[JobState, int]
