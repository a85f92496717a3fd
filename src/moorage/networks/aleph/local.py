"""Programs that come from this machine: a message is taken in as it is, a folder is published as the node's own.

A folder's program keeps its address and its volumes when its code changes: that is published as an update, as its
author would on the network, and a change of what it asks for as an amend (contract, sections 2.3 and 3.7).
"""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from moorage.blobs.base import Blobs
from moorage.errors import BadManifest, Invalid, ProgramUnavailable
from moorage.model.jobs import JSON
from moorage.networks.aleph.key import NodeKey
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.publisher import Publisher
from moorage.networks.aleph.ledger.records import File
from moorage.networks.aleph.manifest import FILE, FILES, as_program, described, references
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.contents import Store
from moorage.networks.aleph.messages.drafts import load
from moorage.networks.aleph.messages.hashes import sha256
from moorage.networks.aleph.messages.program import interface
from moorage.networks.aleph.messages.rules import Machine
from moorage.networks.aleph.programs.export import archive
from moorage.networks.manifest import NAME as APP_FILE

PACKAGES = "/opt/packages"
CHANNEL = "MOORAGE"
MARK = "moorage"
"""Key of the metadata of what was published here: of a program it names its app, of a file the layer that it holds."""


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
                return await self._adopted(source)
            return await self._deployed(name, source, layers.get("python"))

    async def _adopted(self, source: Path) -> str:
        text = (source / FILE).read_bytes()
        files = {path.name: path for path in (source / FILES).glob("*")}
        adopted = await self._publisher.adopt(text, files)
        if adopted.missing:
            raise ProgramUnavailable(
                _told(text, adopted.missing),
                hint="Put each file beside the message, called like that with any ending, such as .zip; "
                "or store it on this node.",
            )
        return adopted.item_hash

    async def _deployed(self, name: str, source: Path, python: Path | None) -> str:
        content, _ = described(source)
        original = self._original(name)
        known = self._ledger.program(original) if original else None
        earlier = known.program.code.ref if known else None
        code = await self._stored(source, earlier, layer=source.name, leave_out=(APP_FILE,))
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
        ref = await self._stored(packages, earlier, layer=python.parent.name)
        content = {**content, "volumes": [*volumes, {"ref": ref, "mount": PACKAGES, "use_latest": True}]}
        program = as_program(content).program
        if program is not None and interface(program) == "binary":  # which nobody tells where they are
            content["variables"] = {"PYTHONPATH": PACKAGES, **(content.get("variables") or {})}
        return content

    async def _stored(
        self, directory: Path, original: str | None, *, layer: str, leave_out: tuple[str, ...] = ()
    ) -> str:
        """Keep a layer as a file of the network; give the STORE that first did, of which others are updates."""
        latest = rules.resolve(self._ledger, original, use_latest=True) if original else None
        store = latest.content if latest and isinstance(latest.content, Store) else None
        metadata: dict[str, JSON] = {MARK: layer}
        if original is not None and store is not None and store.metadata == metadata:
            return original
        file = await archive(directory, "zip", self._blobs, leave_out=leave_out)
        await self._publisher.add_file(File(hash=file.digest, digest=file.digest, size=file.size))
        content: dict[str, JSON] = {"item_type": "storage", "item_hash": file.digest, "metadata": metadata}
        if original is None or store is None:
            return await self._publish("STORE", content)
        await self._publish("STORE", {**content, "ref": original})
        return original

    async def post(self, kind: str, content: JSON, *, channel: str | None) -> str:
        """Publish a POST as the node's own, and give its hash.

        Raises Invalid.
        """
        envelope = await self._signed("POST", {"type": kind, "content": content}, channel)
        receipt = await self._publisher.publish(envelope)
        if receipt.status != "processed":
            raise Invalid(f"The message is refused: {receipt.reasons}.")
        return str(envelope["item_hash"])

    async def _publish(self, kind: str, content: Mapping[str, JSON]) -> str:
        envelope = await self._signed(kind, content, CHANNEL)
        receipt = await self._publisher.publish(envelope)
        if receipt.status != "processed":
            raise BadManifest(f"The program is refused: {receipt.reasons}.")
        return str(envelope["item_hash"])

    async def _signed(self, kind: str, content: Mapping[str, JSON], channel: str | None) -> dict[str, JSON]:
        text = json.dumps(
            {"address": self._key.address, "time": time.time(), **content}, separators=(",", ":"), ensure_ascii=False
        )
        item_hash = sha256(text)
        signed = f"ETH\n{self._key.address}\n{kind}\n{item_hash}".encode()
        return {
            "chain": "ETH",
            "sender": self._key.address,
            "type": kind,
            "channel": channel,
            "time": time.time(),
            "item_type": "inline",
            "item_content": text,
            "item_hash": item_hash,
            "signature": await asyncio.to_thread(self._key.sign, signed),
        }


def _told(text: bytes, missing: Iterable[str]) -> str:
    """Say what a message waits for, and where it asks for it."""
    places = {ref: place for place, ref in references(load(text).program).items()}
    lines = (f"`{places[ref]}` is not here: {ref}" if ref in places else f"{ref} is not here" for ref in missing)
    return "\n".join(lines)
