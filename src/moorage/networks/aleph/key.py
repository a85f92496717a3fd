"""The node's own key, with which it signs for the programs that it runs (contract, section 4.4)."""

import os
import re
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from moorage.errors import BadKey


@dataclass(frozen=True)
class NodeKey:
    """A secp256k1 key; what signs is imported when it is first needed, for it takes a while."""

    secret: bytes = field(repr=False)

    @cached_property
    def address(self) -> str:
        """The Ethereum address."""
        from moorage.networks.aleph.messages.signatures import address_of

        return address_of(self.secret)

    @cached_property
    def public(self) -> bytes:
        """The public key, compressed: 33 bytes."""
        from moorage.networks.aleph.messages.signatures import public_key_of

        return public_key_of(self.secret)

    def sign(self, content: bytes) -> str:
        """Sign bytes as wallets sign messages."""
        from moorage.networks.aleph.messages.signatures import sign_evm

        return sign_evm(self.secret, content)


def open_key(path: Path) -> NodeKey:
    """Read the key, or make one that is then kept.

    Raises BadKey.
    """
    if not path.exists():
        _keep(path, secrets.token_bytes(32).hex())
    text = path.read_text(errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise BadKey(f"{path} holds no key: there should be 64 hexadecimal digits.")
    return NodeKey(bytes.fromhex(text))


def _keep(path: Path, text: str) -> None:
    """Write a file that only this user may read, whole or not at all."""
    staged = path.with_suffix(".new")
    staged.unlink(missing_ok=True)
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    staged.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
