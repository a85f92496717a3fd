"""Services: started when needed, shared, supervised, stopped when idle."""

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from moorage.errors import ServiceUnavailable
from moorage.networks.base import Endpoint, ServiceSpec, accepts
from moorage.node.services import LocalServices
from moorage.sandbox.base import LISTENER, ProcessSpec, Writable
from moorage.sandbox.docker import Docker
from moorage.sandbox.opening import open_sandboxes
from tests.sandboxing import PYTHON, spec

pytestmark = pytest.mark.anyio

ECHO = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 3000))
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
    local = LocalServices(sandboxes, Docker(node="test"), "bubblewrap")
    try:
        yield local
    finally:
        await local.close()
        await sandboxes["bubblewrap"].close()


def service(code: str = ECHO, **more: object) -> ServiceSpec:
    return ServiceSpec(key="echo", process=spec(PYTHON, "-c", code), port=3000, **more)


async def ask(endpoint: Endpoint, text: str) -> str:
    reader, writer = await asyncio.open_connection(sock=await endpoint.connect())
    writer.write(text.encode())
    answer = await reader.read()
    writer.close()
    return answer.decode()


async def state(services: LocalServices, wanted: str) -> None:
    for _ in range(500):
        if services.states()[0].state == wanted:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(services.states())


async def test_jobs_that_need_a_service_at_once_share_one_process(services: LocalServices) -> None:
    wanted = service()

    async def use(number: int) -> str:
        async with services.acquire(wanted) as endpoint:
            return await ask(endpoint, str(number))

    answers = await asyncio.gather(*(use(number) for number in range(10)))
    assert {answer.split()[1] for answer in answers} == {str(number) for number in range(10)}
    assert len({answer.split()[0] for answer in answers}) == 1
    (told,) = services.states()
    assert (told.state, told.leases, told.restarts, told.log_tail) == ("ready", 0, 0, "listening\n")


async def test_a_service_that_dies_is_started_again_when_it_is_next_needed(services: LocalServices) -> None:
    wanted = service()
    async with services.acquire(wanted) as endpoint:
        await ask(endpoint, "die")
        await state(services, "failed")
    assert services.states()[0].reason == "Its process ended with status 3."
    async with services.acquire(wanted) as endpoint:
        assert (await ask(endpoint, "again")).endswith("again")
    assert services.states()[0].restarts == 1


async def test_a_service_that_cannot_start_says_what_it_said_last(services: LocalServices) -> None:
    with pytest.raises(ServiceUnavailable, match=r"status 1"):
        async with services.acquire(service("raise SystemExit('no such model')")):
            pass
    assert services.states()[0].log_tail == "no such model\n"


async def test_a_service_that_never_answers_is_given_up_and_ended(services: LocalServices) -> None:
    silent = service("import time; time.sleep(60)", ready_within=0.5)
    with pytest.raises(ServiceUnavailable, match=r"did not answer within 0\.5 seconds"):
        async with services.acquire(silent):
            pass
    assert services.states()[0].state == "failed"


async def test_a_service_that_nobody_needs_is_stopped_and_comes_back(services: LocalServices) -> None:
    wanted = service(idle_after=0.1)
    async with services.acquire(wanted):
        pass
    await state(services, "stopped")
    async with services.acquire(dataclasses.replace(wanted)) as endpoint:
        assert (await ask(endpoint, "back")).endswith("back")


async def test_two_services_listen_on_the_same_port_without_meeting(services: LocalServices) -> None:
    one, two = service(), dataclasses.replace(service(), key="other")
    async with services.acquire(one) as first, services.acquire(two) as second:
        assert (await ask(first, "1")).split()[1] == "1"
        assert (await ask(second, "2")).split()[1] == "2"


async def test_a_service_is_ready_when_its_own_check_says_so(services: LocalServices) -> None:
    asked: list[str] = []

    async def ready(endpoint: Endpoint) -> bool:
        if await accepts(endpoint):
            asked.append(await ask(endpoint, "ready?"))
        return len(asked) == 3

    async with services.acquire(service(ready=ready)):
        assert len(asked) == 3


async def test_a_kept_service_runs_without_anybody_and_comes_back_when_it_dies(services: LocalServices) -> None:
    services.keep(service(idle_after=0.01))
    await state(services, "ready")
    async with services.acquire(service(idle_after=0.01)) as endpoint:
        await ask(endpoint, "die")
    for _ in range(500):
        if services.states()[0].restarts == 1 and services.states()[0].state == "ready":
            break
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)
    assert (services.states()[0].restarts, services.states()[0].state) == (1, "ready")


async def test_a_kept_service_comes_back_when_what_had_started_it_is_killed(services: LocalServices) -> None:
    services.keep(service())
    await state(services, "ready")
    (helper,) = [
        child for child in psutil.Process().children() if "moorage.sandbox.spawner" in " ".join(child.cmdline())
    ]
    helper.kill()
    for _ in range(500):
        if services.states()[0].restarts == 1 and services.states()[0].state == "ready":
            break
        await asyncio.sleep(0.02)
    assert (services.states()[0].restarts, services.states()[0].state) == (1, "ready")


async def test_a_kept_service_that_cannot_start_is_tried_again_and_tells_why(
    services: LocalServices, tmp_path: Path
) -> None:
    code = "import sys; open('/marks/x', 'a').write('x'); sys.exit('no luck')"
    tmp_path.chmod(0o711)
    marks = tmp_path / "marks"
    marks.mkdir()
    process = spec(PYTHON, "-c", code, mounts=(Writable(source=marks, target="/marks"),))
    services.keep(ServiceSpec(key="echo", process=process, port=3000))
    for _ in range(500):
        tries = len((marks / "x").read_text()) if (marks / "x").exists() else 0
        told = services.states()[0]
        if tries >= 2 and told.reason:  # while it is starting again there is no reason yet
            break
        await asyncio.sleep(0.02)
    assert tries >= 2
    assert "status 1" in str(told.reason)
    assert "no luck" in told.log_tail


async def test_all_who_wait_for_a_start_that_fails_hear_of_it_and_the_next_one_tries_again(
    services: LocalServices, tmp_path: Path
) -> None:
    (tmp_path / "starts").mkdir()
    code = "import os, uuid; open('/starts/' + uuid.uuid4().hex, 'w'); raise SystemExit(9)"
    process = dataclasses.replace(
        spec(PYTHON, "-c", code), mounts=(*spec().mounts, Writable(source=tmp_path / "starts", target="/starts"))
    )
    failing = dataclasses.replace(service(), process=process, patient=False)

    async def use() -> None:
        async with services.acquire(failing):
            raise AssertionError("it does not start")

    outcomes = await asyncio.gather(*(use() for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ServiceUnavailable] * 5
    assert len(list((tmp_path / "starts").iterdir())) == 1
    with pytest.raises(ServiceUnavailable):
        await use()
    assert len(list((tmp_path / "starts").iterdir())) == 2


async def test_what_was_prepared_for_a_process_is_undone_when_it_has_ended(services: LocalServices) -> None:
    order: list[str] = []

    @contextlib.asynccontextmanager
    async def prepared() -> AsyncIterator[ProcessSpec]:
        order.append("prepared")
        yield spec(PYTHON, "-c", ECHO)
        order.append("undone")

    wanted = dataclasses.replace(service(), process=prepared)
    async with services.acquire(wanted) as endpoint:
        assert (await ask(endpoint, "here")).endswith("here")
        assert order == ["prepared"]
    assert await services.stop(wanted.key)
    assert order == ["prepared", "undone"]
    assert not await services.stop(wanted.key)


async def test_a_service_with_a_grace_ends_by_itself(services: LocalServices) -> None:
    said: list[bytes] = []
    polite = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit()))\n"
    wanted = service(polite + ECHO, grace=10.0, output=lambda _, data: said.append(data))
    async with services.acquire(wanted):
        pass
    await services.stop(wanted.key)
    assert b"".join(said) == b"listening\nbye\n"


async def test_a_service_that_will_not_end_within_its_grace_is_killed(services: LocalServices) -> None:
    stubborn = service(f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{ECHO}", grace=0.2)
    async with services.acquire(stubborn):
        pass
    async with asyncio.timeout(5):
        await services.stop(stubborn.key)


async def test_a_kept_service_that_is_killed_comes_back_by_itself(services: LocalServices) -> None:
    wanted = service(ECHO, grace=60.0)
    services.keep(wanted)
    await state(services, "ready")
    async with asyncio.timeout(5):
        await services.kill(wanted.key)
        assert services.states()[0].state == "failed"
        await state(services, "ready")
    assert services.states()[0].restarts == 1
    await services.kill("nothing")


async def test_a_retired_service_ends_with_its_last_lease_and_is_forgotten(services: LocalServices) -> None:
    wanted = service()
    async with services.acquire(wanted) as endpoint:
        services.retire(wanted.key)
        assert (await ask(endpoint, "still")).endswith("still")
    assert services.states() == ()
    await services.close()


async def test_a_process_that_was_given_a_listener_is_reached_there_before_it_accepts(
    services: LocalServices, tmp_path: Path
) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "listener"))
    listener.listen()
    code = f"""
import socket, time
time.sleep(0.5)
listener = socket.socket(fileno={LISTENER})
for _ in range(2):  # the first connection only asks whether there is any
    connection, _ = listener.accept()
    if data := connection.recv(100):
        connection.sendall(b"late " + data)
    connection.close()
"""
    process = dataclasses.replace(spec(PYTHON, "-c", code), listener=listener)
    wanted = dataclasses.replace(service(), process=process)
    async with services.acquire(wanted) as endpoint:
        assert await ask(endpoint, "hello") == "late hello"


def slow(seconds: float, *, then: str = ECHO) -> str:
    """Give a program that listens after a while."""
    return f"import time\ntime.sleep({seconds})\n{then}"


async def test_a_service_in_use_is_not_stopped_for_those_who_left_while_it_started(services: LocalServices) -> None:
    wanted = service(slow(0.4), idle_after=0.5)

    async def impatient() -> None:
        async with services.acquire(wanted):
            raise AssertionError("it is gone before that")

    leaving = asyncio.ensure_future(impatient())
    await asyncio.sleep(0.1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await state(services, "ready")
    async with services.acquire(wanted) as endpoint:
        await asyncio.sleep(0.8)
        assert (await ask(endpoint, "still")).endswith("still")


async def test_a_service_that_is_retired_while_it_starts_leaves_no_process(services: LocalServices) -> None:
    wanted = service(slow(0.3))
    waiting = asyncio.ensure_future(anext(aiter(_held(services, wanted))))
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    services.retire(wanted.key)
    assert services.states() == ()
    await services.close()
    assert not [
        each for each in psutil.Process().children(recursive=True) if "time.sleep(0.3)" in " ".join(_line(each))
    ]


async def _held(services: LocalServices, wanted: ServiceSpec) -> AsyncIterator[Endpoint]:
    async with services.acquire(wanted) as endpoint:
        yield endpoint


def _line(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


async def test_who_waits_for_a_start_that_is_stopped_is_told_and_the_stop_tells_that_it_ran(
    services: LocalServices,
) -> None:
    wanted = service(slow(30))
    waiting = asyncio.ensure_future(anext(aiter(_held(services, wanted))))
    await asyncio.sleep(0.3)
    assert await services.stop(wanted.key)
    with pytest.raises(ServiceUnavailable, match="stopped while it started"):
        await waiting
