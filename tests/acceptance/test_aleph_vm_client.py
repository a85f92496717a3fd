"""The network's own SDK, unmodified as it is on PyPI, controls programs, and does inside them what it does.

Items 47 and 48 of the acceptance checklist (contract, section 8); what runs are stand-ins for programs.
"""

import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from moorage.networks.aleph.facade.app import Facade
from moorage.networks.aleph.guest.api import GuestApi
from moorage.networks.aleph.guest.cache import Cache
from moorage.networks.aleph.guest.server import GuestServer
from moorage.networks.aleph.key import NodeKey
from moorage.networks.aleph.messages.hashes import host_label
from moorage.networks.base import ServiceSpec
from tests.aleph import Wallet, opened, program, served
from tests.aleph_control import controlled
from tests.aleph_sdk import drive, install

OWNER = Wallet(int.from_bytes(b"\1" * 32))
PROCESSED = "MessageStatus.PROCESSED"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the interpreter of an environment with the SDK."""
    return install(tmp_path_factory.mktemp("sdk") / "env")


@contextlib.asynccontextmanager
async def a_program_that_runs(directory: Path) -> AsyncIterator[tuple[str, str]]:
    """Serve the control of a program that says so whenever it is started; give the URL and its hash."""
    async with controlled(directory, clock=time.time) as node:
        ref = await node.program(OWNER)
        acquire = node.services.acquire

        def speaking(spec: ServiceSpec) -> Any:
            node.registry.log_of(ref).write("stdout", b"started\n")
            return acquire(spec)

        node.services.acquire = speaking  # type: ignore[method-assign]
        await node.run(ref)
        async with served(node.control) as url:
            yield url, ref


@pytest.fixture(scope="module")
def controlled_by_sdk(python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Let the SDK do all it can to a program, once; give what it saw."""
    running = a_program_that_runs(tmp_path_factory.mktemp("node"))
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(running) as (url, ref):
        return {"ref": ref, **drive(python, "aleph_vm_driver.py", url, ref)}


@contextlib.asynccontextmanager
async def a_guest(directory: Path) -> AsyncIterator[tuple[Path, str]]:
    """Serve the guest API of a program; give the socket and the program's hash."""
    async with opened(directory) as desk:
        code = await desk.file(b"app = None")
        message = OWNER.message("PROGRAM", program(code, environment={"aleph_api": True}))
        assert await desk.take(message) == "processed"
        facade, cache = Facade(desk.publisher, desk.ledger, desk.blobs), Cache.open(directory)
        api = GuestApi(facade, desk.publisher, desk.ledger, desk.blobs, key=NodeKey(Wallet(3).key), cache=cache)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(directory / "s"))
        listener.listen()
        async with GuestServer(api).serve(listener, message["item_hash"]):
            yield directory / "s", message["item_hash"]
        await cache.close()


@pytest.fixture(scope="module", params=["hash", "label"])
def inside(
    request: pytest.FixtureRequest, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Let the SDK do what it does inside a program, which names itself in one of two ways."""
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(a_guest(tmp_path_factory.mktemp("node"))) as (path, item_hash),
    ):
        address = item_hash if request.param == "hash" else host_label(item_hash)
        yield drive(python, "aleph_guest_driver.py", path, address)


def test_the_owner_controls_a_program(controlled_by_sdk: dict[str, Any]) -> None:
    seen, ref = controlled_by_sdk, controlled_by_sdk["ref"]
    assert seen["stop"] == [[200, f"Stopped VM with ref {ref}"], [200, "Already stopped, nothing to do"]]
    assert seen["reboot"] == [
        [200, f"Starting VM (was not running) with ref {ref}"],
        [200, f"Rebooted VM with ref {ref}"],
    ]
    assert seen["reinstall"] == [200, f"Reinstalled VM with ref {ref}"]
    assert seen["expire"] == [200, f"Expiring VM with ref {ref} in 0 seconds"]
    assert seen["erase"] == [200, f"Erased VM with ref {ref}"]
    assert seen["all"][0] == 200
    assert seen["unknown"][0] == 404


def test_the_owner_reads_the_log_and_follows_it(controlled_by_sdk: dict[str, Any]) -> None:
    assert ["stdout", "started"] in controlled_by_sdk["logs"]
    assert controlled_by_sdk["connected"] == {"status": "connected"}
    assert controlled_by_sdk["streamed"] == {"type": "stdout", "message": "started"}


def test_executions_are_what_the_sdk_knows(controlled_by_sdk: dict[str, Any]) -> None:
    assert controlled_by_sdk["execution"] == ["CrnExecutionV2", True]
    assert controlled_by_sdk["executions"] is True
    assert controlled_by_sdk["update"] == {}


def test_nobody_else_controls_it(controlled_by_sdk: dict[str, Any]) -> None:
    assert controlled_by_sdk["stranger"] == controlled_by_sdk["solana"] == [403, "Unauthorized sender"]
    assert controlled_by_sdk["refused stream"] == {"status": "failed", "reason": "Unauthorized sender"}
    assert controlled_by_sdk["replayed"] == 401


def test_programs_keep_values(inside: dict[str, Any]) -> None:
    assert inside["set"] == [True, True]
    assert inside["get"] == ["value", "", None]
    assert inside["keys"] == [["empty", "key"], ["key"]]
    assert inside["delete"] == [1, 0, None]


def test_programs_publish_in_their_own_name_alone(inside: dict[str, Any]) -> None:
    assert inside["post"] == inside["large post"] == [PROCESSED, True, True]
    assert inside["foreign"].startswith("400")
