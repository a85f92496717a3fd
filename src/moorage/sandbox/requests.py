"""What the node asks the spawner to start, as it travels there."""

import marshal
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the spawner is asked to start; launch.py describes the fields."""

    kind: Literal["bubblewrap", "host"]
    argv: tuple[str, ...]
    program: str = ""
    options: tuple[str, ...] = ()
    env: dict[str, str] | None = None
    cwd: str = "/"
    user: int | None = None
    rlimits: tuple[tuple[int, int], ...] = ()
    mounts: tuple[dict[str, Any], ...] | None = None
    seccomp: str | None = None
    slirp: str | None = None
    closed: tuple[tuple[bytes, int], ...] = ()
    listener: int | None = None

    def encode(self) -> bytes:
        """Write it down for the spawner."""
        return marshal.dumps({name: getattr(self, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """What a warm interpreter is asked to start; guest/interpreter.py reads the fields but the first two."""

    interpreter: int
    mounts: tuple[dict[str, Any], ...]
    targets: tuple[str, ...]
    """Where the mounts go."""
    argv: tuple[str, ...]
    cwd: str
    private: tuple[str, ...]
    """Directories that are made anew, and hold `tmp` bytes each."""
    tmp: int
    rlimits: tuple[tuple[int, int], ...]
    seccomp: bytes | None

    def encode(self) -> bytes:
        """Write it down for the interpreter, whose Python may be older or newer than ours."""
        return marshal.dumps({name: getattr(self, name) for name in self.__slots__[2:]}, 2)
