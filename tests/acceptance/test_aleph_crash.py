"""`kill -9` of a node whose programs have triggers: no event is lost, none that was handled is handled again.

Acceptance, item 6; contract, sections 2.9 and 2.10.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from moorage.model.states import JobState
from tests.acceptance.test_crash import Served, served
from tests.aleph_node import AlephNode, share_layers

LOGS = """
import asyncio, json, os

LOG = os.open("/kept/log", os.O_RDWR | os.O_CREAT | os.O_APPEND)

def note(*words):
    os.write(LOG, (" ".join(words) + "\\n").encode())
    os.fsync(LOG)

async def app(scope, receive, send):
    if scope["type"] == "aleph.message":
        event = json.loads(scope["body"])["item_hash"]
        note("begin", event)
        await asyncio.sleep(0.05)
        note("end", event)
        await send({"took": event})
        return
    assert scope["type"] == "http"
    headers = dict(scope["headers"])
    if b"aleph-event-time" in headers:
        note("begin", headers[b"aleph-event-time"].decode())
        await asyncio.sleep(2)
        note("end", headers[b"aleph-event-time"].decode())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": open("/kept/log", "rb").read()})
"""
KILLS = 3
KEPT = {"persistence": "host", "name": "kept", "mount": "/kept", "size_mib": 10}
SET = """
import sys, time
real = time.time
time.time = lambda: real() + {ahead}
from moorage.cli.main import main
main()
"""
"""The command line with a clock of its own, so that a minute begins when the test wants it to."""


@contextmanager
def running(home: Path, layers: Path, *, ahead: float = 0.0) -> Iterator[tuple[Served, AlephNode]]:
    """Serve from a process of its own; give it and its client."""
    home.mkdir(exist_ok=True)
    config = home / "node.toml"
    config.write_text("cpus = 20.0\nmemory = 68719476736\n")
    share_layers(home / "data", layers)
    command = (sys.executable, "-c", SET.format(ahead=ahead))
    with served(home / "data", config, command=command) as node:
        transport = httpx.HTTPTransport(uds=node.client._node.address)
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=60) as client:
            yield node, AlephNode(served=node, client=client)


class Author:
    """Publishes messages for as long as the node takes them."""

    def __init__(self, node: AlephNode, numbers: Iterator[int]) -> None:
        self.published: list[str] = []
        self._node, self._numbers = node, numbers
        self._thread = threading.Thread(target=self._publish)

    def _publish(self) -> None:
        for number in self._numbers:
            message = self._node.wallet.message("POST", {"type": "event", "content": number, "time": 5000.0 + number})
            try:
                self.published.append(self._node.publish(message))
            except httpx.TransportError:
                return  # the node is gone

    def __enter__(self) -> "Author":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()


def done(node: Served, program: str) -> set[str]:
    """List the messages whose handling the node knows to be over."""
    found: set[str] = set()
    before = None
    while page := node.client.jobs(labels={"program": program}, state=JobState.SUCCEEDED, before=before, limit=1000):
        found |= {job.spec.parameters["message"] for job in page}
        before = page[-1].id
    return found


def told(node: AlephNode, program: str) -> "tuple[Counter[str], Counter[str]]":
    """Count how often the program has begun and ended with each event."""
    begun, ended = Counter[str](), Counter[str]()
    answer = node.get(program)
    assert answer.status_code == 200, answer.text
    for line in answer.text.splitlines():
        word, event = line.split()
        (begun if word == "begin" else ended)[event] += 1
    return begun, ended


def crash(home: Path, layers: Path, program: str, numbers: Iterator[int]) -> tuple[list[str], dict[str, int]]:
    """Publish to a node and kill it meanwhile.

    Give what was published, and what was known to be over, with how often the program had ended with it by then:
    twice where an earlier node died before it knew of the first.
    """
    with running(home, layers) as (process, node):
        earlier = len(done(process, program))
        with Author(node, numbers) as author:
            node.until(lambda: len(done(process, program)) > earlier + 20)
            handled = done(process, program)
            _, ended = told(node, program)
            process.kill()
    return author.published, {event: ended[event] for event in handled}


def test_no_message_is_lost_and_none_that_was_handled_is_handled_again(tmp_path: Path, aleph_layers: Path) -> None:
    home, numbers = tmp_path / "home", count()
    with running(home, aleph_layers) as (_, node):
        on = {"http": True, "message": [{"content": {"type": "event"}}]}
        program = node.deploy(LOGS, on=on, volumes=[KEPT])
    crashes = [crash(home, aleph_layers, program, numbers) for _ in range(KILLS)]
    published = [event for acknowledged, _ in crashes for event in acknowledged]
    handled = {event: times for _, known in crashes for event, times in known.items()}
    with running(home, aleph_layers) as (process, node):
        node.until(lambda: set(published) <= done(process, program), within=60)
        begun, ended = told(node, program)
        assert [each for each in published if not ended[each]] == [], "an event is lost"
        assert {event: ended[event] for event in handled} == handled, "an event that was handled is handled again"
        assert list(handled.values()).count(1) > 20
        assert len(published) > len(handled) > 20 * KILLS
        assert max(begun.values()) <= 1 + KILLS
        assert not process.client.jobs(labels={"program": program}, state=JobState.FAILED)


def test_a_run_of_a_schedule_that_was_cut_off_is_made_again_for_its_own_time(
    tmp_path: Path, aleph_layers: Path
) -> None:
    home = tmp_path / "home"
    ahead = 52 - time.time() % 60
    with running(home, aleph_layers, ahead=ahead) as (process, node):
        program = node.deploy(LOGS, on={"http": True, "cron": "* * * * *"}, volumes=[KEPT])
        node.until(lambda: told(node, program)[0])
        process.kill()
    (slot,) = {str(int((time.time() + ahead) // 60 * 60))}
    with running(home, aleph_layers, ahead=ahead) as (process, node):
        node.until(lambda: told(node, program)[1])
        begun, ended = told(node, program)
        assert (begun, ended) == ({slot: 2}, {slot: 1})
        (job,) = jobs_of(process, program)
        assert job.state is JobState.SUCCEEDED


def jobs_of(process: Served, program: str) -> list[Any]:
    jobs = process.client.jobs(labels={"program": program})
    return [process.client.wait_job(job.id) for job in jobs]


def test_what_a_killed_node_left_running_is_gone_and_its_persistent_programs_run_again(
    tmp_path: Path, aleph_layers: Path
) -> None:
    home = tmp_path / "home"
    with running(home, aleph_layers) as (process, node):
        program = node.deploy(LOGS, on={"http": True, "persistent": True}, volumes=[KEPT])
        node.until(lambda: ready(process, program))
        process.kill()
    with running(home, aleph_layers) as (process, node):
        node.until(lambda: ready(process, program))
        assert node.get(program).status_code == 200


def ready(process: Served, program: str) -> bool:
    found = [each for each in process.client.services() if each.key.startswith(f"aleph:{program}@")]
    return [each.state for each in found] == ["ready"]
