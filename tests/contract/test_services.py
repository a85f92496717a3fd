"""Services: started when needed, shared, supervised, stopped when idle."""

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moorage.errors import ServiceUnavailable
from moorage.networks.base import ServiceSpec
from moorage.node.services import LocalServices
from moorage.sandbox.base import SANDBOX_UID, Writable
from moorage.sandbox.opening import open_sandboxes
from tests.sandboxing import PYTHON, spec

pytestmark = pytest.mark.anyio

ECHO = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run-here/echo.sock")
listener.listen()
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    if data := connection.recv(100):
        if data == b"die":
            os._exit(3)
        connection.sendall(f"{os.getpid()} {data.decode()}".encode())
    connection.close()
"""


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[LocalServices]:
    sandboxes = await open_sandboxes(data_dir=tmp_path / "data", run_dir=tmp_path / "run")
    local = LocalServices(sandboxes, "bubblewrap")
    try:
        yield local
    finally:
        await local.close()
        await sandboxes["bubblewrap"].close()


def service(directory: Path, code: str = ECHO, **more: object) -> ServiceSpec:
    directory.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        os.chown(directory, SANDBOX_UID, SANDBOX_UID)
    process = spec(PYTHON, "-c", code, mounts=(Writable(source=directory, target="/run-here"),))
    return ServiceSpec(key="echo", process=process, socket=directory / "echo.sock", **more)


async def ask(socket: Path, text: str) -> str:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    writer.write(text.encode())
    answer = await reader.read()
    writer.close()
    return answer.decode()


async def state(services: LocalServices, wanted: str) -> None:
    for _ in range(500):
        if services.list()[0].state == wanted:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(services.list())


async def test_jobs_that_need_a_service_at_once_share_one_process(services: LocalServices, tmp_path: Path):
    wanted = service(tmp_path / "s")

    async def use(number: int) -> str:
        async with services.acquire(wanted) as endpoint:
            return await ask(endpoint.socket, str(number))

    answers = await asyncio.gather(*(use(number) for number in range(10)))
    assert {answer.split()[1] for answer in answers} == {str(number) for number in range(10)}
    assert len({answer.split()[0] for answer in answers}) == 1
    (told,) = services.list()
    assert (told.state, told.leases, told.restarts, told.log_tail) == ("ready", 0, 0, "listening\n")


async def test_a_service_that_dies_is_started_again_when_it_is_next_needed(services: LocalServices, tmp_path: Path):
    wanted = service(tmp_path / "s")
    async with services.acquire(wanted) as endpoint:
        await ask(endpoint.socket, "die")
        await state(services, "failed")
    assert services.list()[0].reason == "Its process ended with status 3."
    async with services.acquire(wanted) as endpoint:
        assert (await ask(endpoint.socket, "again")).endswith("again")
    assert services.list()[0].restarts == 1


async def test_a_service_that_cannot_start_says_what_it_said_last(services: LocalServices, tmp_path: Path):
    with pytest.raises(ServiceUnavailable, match=r"status 1.*no such model"):
        async with services.acquire(service(tmp_path / "s", "raise SystemExit('no such model')")):
            pass


async def test_a_service_that_never_answers_is_given_up_and_ended(services: LocalServices, tmp_path: Path):
    silent = service(tmp_path / "s", "import time; time.sleep(60)", ready_within=0.5)
    with pytest.raises(ServiceUnavailable, match=r"did not answer within 0\.5 seconds"):
        async with services.acquire(silent):
            pass
    assert services.list()[0].state == "failed"


async def test_a_service_that_nobody_needs_is_stopped_and_comes_back(services: LocalServices, tmp_path: Path):
    wanted = service(tmp_path / "s", idle_after=0.1)
    async with services.acquire(wanted):
        pass
    await state(services, "stopped")
    async with services.acquire(dataclasses.replace(wanted)) as endpoint:
        assert (await ask(endpoint.socket, "back")).endswith("back")
