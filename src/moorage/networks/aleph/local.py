"""Programs that come from this machine: a message is taken in as it is, a folder is published as the node's own.

A folder's program keeps its address and its volumes when its code changes: that is published as an update, as its
author would on the network, and a change of what it asks for as an amend (contract, sections 2.3 and 3.7).
"""

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path

from moorage.blobs.base import Blobs
from moorage.errors import BadManifest, ProgramUnavailable
from moorage.model.jobs import JSON
from moorage.networks.aleph.key import NodeKey
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.publisher import Publisher
from moorage.networks.aleph.ledger.records import File
from moorage.networks.aleph.manifest import FILE, FILES, described
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.contents import Store
from moorage.networks.aleph.messages.hashes import sha256
from moorage.networks.aleph.messages.rules import Machine
from moorage.networks.aleph.programs.export import archive
from moorage.networks.manifest import NAME as APP_FILE

PACKAGES = "/opt/packages"
CHANNEL = "MOORAGE"
MARK = "moorage"
"""Key of a program's metadata that names the folder's app it was made of."""


class Local:
    """Publishes what an operator runs."""

    def __init__(self, publisher: Publisher, ledger: Ledger, blobs: Blobs, key: NodeKey) -> None:
        self._publisher, self._ledger, self._blobs, self._key = publisher, ledger, blobs, key
        self._lock = asyncio.Lock()

    async def address(self, name: str, layers: Mapping[str, Path]) -> str:
        """Publish an app, if it is not as it stands, and give the item hash by which it is called.

        Raises BadManifest.
        """
        source = layers["app"]
        async with self._lock:
            if (source / FILE).is_file():
                files = {path.name: path for path in (source / FILES).glob("*")}
                adopted = await self._publisher.adopt((source / FILE).read_bytes(), files)
                if adopted.missing:
                    raise ProgramUnavailable(
                        f"The program waits for {', '.join(adopted.missing)}.",
                        hint="Put each file beside the message, named by its reference, or store it on this node.",
                    )
                return adopted.item_hash
            return await self._deployed(name, source, layers.get("python"))

    async def _deployed(self, name: str, source: Path, python: Path | None) -> str:
        content, _ = described(source)
        original = self._original(name)
        known = self._ledger.program(original) if original else None
        code = await self._stored(source, known.program.code.ref if known else None, leave_out=(APP_FILE,))
        content = {**content, "code": {**content["code"], "ref": code}}
        if python is not None:
            content = await self._with_packages(content, python, original)
        content["metadata"] = {**(content.get("metadata") or {}), MARK: name}
        if original is None:
            return await self._publish("PROGRAM", content)
        if content != self._latest(original):
            await self._publish("PROGRAM", {**content, "replaces": original})
        return original

    def _original(self, name: str) -> str | None:
        """Find the program that was made of an app of this name."""
        for item_hash in self._ledger.programs():
            message, loaded = self._ledger.message(item_hash), self._ledger.program(item_hash)
            if message is None or loaded is None or not isinstance(message.content, Machine):
                continue
            own = rules.same_address(message.owner, self._key.address) and loaded.program.metadata.get(MARK) == name
            if own and not message.content.replaces:
                return item_hash
        return None

    def _latest(self, original: str) -> dict[str, JSON]:
        """Give what the newest version of a program says, but for what is new with each message."""
        message = self._ledger.message(original)
        assert message is not None
        record = self._ledger.record(rules.current_version(self._ledger, message).item_hash)
        assert record is not None
        assert record.content is not None
        own = {"address", "time", "replaces"}
        return {key: value for key, value in record.content.items() if key not in own}

    async def _with_packages(self, content: dict[str, JSON], python: Path, original: str | None) -> dict[str, JSON]:
        """Give the program its packages as a volume, as it has them on the network."""
        (packages,) = python.glob("lib/python3*/site-packages")
        volumes = list(content.get("volumes") or [])
        if any(volume.get("mount") == PACKAGES for volume in volumes):
            raise BadManifest(
                f"{APP_FILE}: a volume is mounted at {PACKAGES}, where the packages of `python` belong.",
                hint="Leave one of them out.",
            )
        known = self._latest(original).get("volumes") or [] if original else []
        earlier = next((volume["ref"] for volume in known if volume.get("mount") == PACKAGES), None)
        ref = await self._stored(packages, earlier)
        return {**content, "volumes": [*volumes, {"ref": ref, "mount": PACKAGES, "use_latest": True}]}

    async def _stored(self, directory: Path, original: str | None, *, leave_out: tuple[str, ...] = ()) -> str:
        """Keep a directory as a file of the network; give the STORE that first did, of which others are updates."""
        file = await archive(directory, "zip", self._blobs, leave_out=leave_out)
        await self._publisher.add_file(File(hash=file.digest, digest=file.digest, size=file.size))
        content: dict[str, JSON] = {"item_type": "storage", "item_hash": file.digest}
        if original is None or self._ledger.message(original) is None:
            return await self._publish("STORE", content)
        latest = rules.resolve(self._ledger, original, use_latest=True)
        if latest is None or not isinstance(latest.content, Store) or latest.content.item_hash != file.digest:
            await self._publish("STORE", {**content, "ref": original})
        return original

    async def _publish(self, kind: str, content: Mapping[str, JSON]) -> str:
        text = json.dumps(
            {"address": self._key.address, "time": time.time(), **content}, separators=(",", ":"), ensure_ascii=False
        )
        item_hash = sha256(text)
        signed = f"ETH\n{self._key.address}\n{kind}\n{item_hash}".encode()
        envelope: dict[str, JSON] = {
            "chain": "ETH",
            "sender": self._key.address,
            "type": kind,
            "channel": CHANNEL,
            "time": time.time(),
            "item_type": "inline",
            "item_content": text,
            "item_hash": item_hash,
            "signature": await asyncio.to_thread(self._key.sign, signed),
        }
        receipt = await self._publisher.publish(envelope)
        if receipt.status != "processed":
            raise BadManifest(f"The program is refused: {json.dumps(receipt.details)}.")
        return item_hash
