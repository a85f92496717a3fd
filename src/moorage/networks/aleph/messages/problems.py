"""What is wrong with a message or program, where, and what to do about it (contract, section 5)."""

from dataclasses import dataclass

from moorage.blobs.names import shown
from moorage.model.jobs import JSON

Place = tuple[str | int, ...]
"""Keys and indices, from the document down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong, or in vain, at one place of a document."""

    place: Place
    rule: str
    """What the contract asks for."""
    fix: str | None = None
    type: str = "value_error"
    """A word for programs, as in the answers of the API."""

    @property
    def path(self) -> str:
        """The place as text; empty for the document itself."""
        return path_of(self.place)

    @property
    def text(self) -> str:
        """The rule, and the fix if there is one."""
        return f"{self.rule}; {self.fix}" if self.fix else self.rule

    @property
    def document(self) -> dict[str, JSON]:
        """The problem as one of `details.errors`."""
        return {"loc": list(self.place), "msg": self.text, "type": self.type}

    def __str__(self) -> str:
        place = f"`{self.path}`: " if self.place else ""
        return f"{place}{self.rule}." + (f" {self.fix}" if self.fix else "")


def path_of(place: Place) -> str:
    """Write a place as text, such as `content.volumes[2].size_mib`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{_name(step)}" for step in place)
    return "".join(steps).removeprefix(".")


def _name(key: str) -> str:
    return key if key.isprintable() and len(key) <= 200 else shown(key)
