"""The data directory: its layout, who holds it, and where that node answers."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from moorage.errors import DataDirectoryBusy, StoreUnavailable
from moorage.model.ids import new_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """The node that holds a data directory."""

    pid: int
    url: str | None
    """Its TCP address; None for a node inside another command."""
    socket: str | None
    """Its Unix socket."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Paths below one data directory."""

    root: Path

    @property
    def database(self) -> Path:
        """The store."""
        return self.root / "moorage.db"

    @property
    def blobs(self) -> Path:
        """Bytes by digest."""
        return self.root / "blobs"

    @property
    def layers(self) -> Path:
        """Read-only layers."""
        return self.root / "layers"

    @property
    def work(self) -> Path:
        """Workspaces of running attempts."""
        return self.root / "work"

    @property
    def staging(self) -> Path:
        """Uploaded sources on their way to becoming apps."""
        return self.root / "staging"

    @property
    def socket(self) -> Path:
        """Where the node answers on this machine."""
        return self.root / "node.sock"

    def of_network(self, name: str) -> Path:
        """Make, if need be, the directory in which a network keeps what its surface must not forget."""
        path = self.root / "networks" / name
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def stage(self) -> Path:
        """Make a fresh private directory for an upload."""
        path = self.staging / new_id("stage")
        path.mkdir(mode=0o700)
        return path

    def make(self) -> None:
        """Make the directories.

        Raises StoreUnavailable naming the one that cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in (self.blobs, self.layers, self.work, self.staging):
                path.mkdir(exist_ok=True, mode=0o711)
        except OSError as error:
            raise StoreUnavailable(
                f"The data directory {self.root} cannot be made: {error.strerror}.",
                hint="Give another one with --data-dir or MOORAGE_DATA_DIR.",
            ) from None

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other nodes out for as long as the context lasts; the kernel lets go of it when a node dies.

        Raises DataDirectoryBusy.
        """
        with (self.root / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = self.presence()
                who = f" (process {holder.pid}{', ' + holder.url if holder.url else ''})" if holder else ""
                raise DataDirectoryBusy(f"Another node{who} holds {self.root}.") from None
            self._announcement.unlink(missing_ok=True)  # of a node that was killed
            try:
                yield
            finally:
                self._announcement.unlink(missing_ok=True)

    def announce(self, *, url: str | None, socket: Path | None) -> None:
        """Tell other commands on this machine where the node that holds the directory answers."""
        presence = Presence(pid=os.getpid(), url=url, socket=str(socket) if socket else None)
        temporary = self._announcement.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(presence)))
        temporary.rename(self._announcement)

    def presence(self) -> Presence | None:
        """Tell which node holds the directory; None if none does or it has not said yet."""
        try:
            return Presence(**json.loads(self._announcement.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def held(self) -> bool:
        """Tell whether a node holds the directory now."""
        try:
            with (self.root / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @property
    def _announcement(self) -> Path:
        return self.root / "node.json"
