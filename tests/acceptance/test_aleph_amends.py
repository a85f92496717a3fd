"""New versions of programs and of their files, while clients call them (contract, sections 2.3 and 3.7)."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.aleph_node import AlephNode, aleph_node, zipped

SAYS = """
import pathlib

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"VERSION ", "more_body": True})
    while (await receive())["more_body"]:
        pass
    count = pathlib.Path("/kept/count")
    if count.parent.exists():
        count.write_text(str(int(count.read_text()) + 1 if count.exists() else 1))
        await send({"type": "http.response.body", "body": count.read_bytes(), "more_body": True})
    for name in ("/data/name", "/files/name"):
        if pathlib.Path(name).exists():
            await send({"type": "http.response.body", "body": open(name, "rb").read(), "more_body": True})
    await send({"type": "http.response.body", "body": b"end"})
"""
KEPT = {"persistence": "host", "name": "kept", "mount": "/kept", "size_mib": 10}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers) as running:
        yield running


def says(version: str) -> str:
    return SAYS.replace("VERSION", version)


def deploy(node: AlephNode, version: str, **content: Any) -> tuple[str, str]:
    """Publish a program that follows its code; give its hash and that of the code's STORE."""
    program = node.deploy(says(version), more={"use_latest": True}, **content)
    return program, node.surface.ledger.program(program).program.code.ref


def update(node: AlephNode, code: str, version: str, **content: Any) -> str:
    return node.file(says(version).encode(), ref=code, **content)


def forget(node: AlephNode, *hashes: str) -> None:
    node.publish(node.wallet.message("FORGET", {"hashes": list(hashes), "time": node.now()}))


def version(node: AlephNode, program: str) -> str:
    answer = node.get(program)
    assert answer.status_code == 200, (answer.text, node.log(program))
    assert answer.text.endswith("end")
    return answer.text.split()[0]


@contextmanager
def under_way(node: AlephNode, program: str) -> Iterator[list[str]]:
    """Have a request to an old version under way meanwhile; the rest of its answer is there afterwards."""
    answer: list[str] = []
    with closing(HTTPConnection(urlsplit(node.url).netloc, timeout=30)) as connection:
        connection.putrequest("POST", f"/vm/{program}/")
        connection.putheader("content-length", "2")
        connection.endheaders(b"x")
        response = connection.getresponse()
        assert response.read(4) == b"old "
        yield answer
        connection.send(b"x")
        answer.append(response.read().decode())


def test_the_request_after_an_update_runs_the_new_code_and_one_under_way_ends_on_the_old(node: AlephNode) -> None:
    program, code = deploy(node, "old")
    with under_way(node, program) as answer:
        newer = update(node, code, "new")
        assert version(node, program) == "new"
        assert node.get(program).headers["aleph-program-code-ref"] == newer
        assert len(node.processes_of(program)) == 2
    assert answer == ["end"]
    node.until(lambda: len(node.processes_of(program)) == 1)


def test_when_an_update_is_forgotten_the_one_before_is_back_at_once(node: AlephNode) -> None:
    program, code = deploy(node, "old")
    with under_way(node, program) as answer:
        newer = update(node, code, "new")
        assert version(node, program) == "new"
        forget(node, newer)
        assert version(node, program) == "old"
        assert node.get(program).headers["aleph-program-code-ref"] == code
    assert answer == ["end"]
    assert version(node, program) == "old"


def test_the_greatest_time_wins_whatever_comes_first(node: AlephNode) -> None:
    program, code = deploy(node, "old")
    late, early = node.now() + 1e6, node.now() + 5e5
    for name, moment in (("late", late), ("early", early)):
        stored = node.client.post("/api/v0/storage/add_file", content=says(name).encode()).json()["hash"]
        node.publish(node.wallet.store(stored, time=moment, ref=code))
        assert version(node, program) == "late"


def test_a_program_that_follows_nothing_stays_as_it_is(node: AlephNode) -> None:
    program = node.deploy(says("old"))
    update(node, node.surface.ledger.program(program).program.code.ref, "new")
    assert version(node, program) == "old"


def test_data_and_volumes_follow_updates_too(node: AlephNode) -> None:
    data, volume = (node.file(zipped({"name": f"{name}1 "})) for name in ("data", "volume"))
    program, _ = deploy(
        node,
        "v",
        data={"encoding": "zip", "mount": "/data", "ref": data, "use_latest": True},
        volumes=[{"ref": volume, "mount": "/files", "use_latest": True}],
    )
    assert node.get(program).text == "v data1 volume1 end"
    node.file(zipped({"name": "data2 "}), ref=data)
    node.file(zipped({"name": "volume2 "}), ref=volume)
    assert node.get(program).text == "v data2 volume2 end"


def test_an_amend_takes_the_address_of_the_original_and_has_its_own(node: AlephNode) -> None:
    original, _ = deploy(node, "old", volumes=[KEPT])
    assert node.get(original).text == "old 1end"
    with under_way(node, original) as answer:
        first, _ = deploy(node, "first", replaces=original, volumes=[KEPT])
        second, _ = deploy(node, "second", replaces=original, volumes=[KEPT])
        assert node.get(original).text == "second 2end"
    assert answer == ["3end"]
    assert node.get(original).headers["aleph-program-itemhash"] == second
    assert (version(node, first), version(node, second)) == ("first", "second")


def test_volumes_belong_to_all_versions_of_a_program(node: AlephNode) -> None:
    original, _ = deploy(node, "one", volumes=[KEPT])
    assert node.get(original).text == "one 1end"
    amend, _ = deploy(node, "two", replaces=original, volumes=[KEPT])
    assert [node.get(each).text for each in (original, amend)] == ["two 2end", "two 3end"]
    forget(node, original)
    assert node.get(amend).text == "two 4end"


def test_an_original_that_is_forgotten_is_gone_and_its_amend_is_not(node: AlephNode) -> None:
    original, _ = deploy(node, "old")
    amend, _ = deploy(node, "new", replaces=original)
    assert version(node, original) == "new"
    forget(node, original)
    answer = node.get(original)
    assert (answer.status_code, answer.json()) == (410, {"error": f"Program {original} has been forgotten"})
    assert version(node, amend) == "new"


def test_when_an_amend_is_forgotten_the_version_before_is_served(node: AlephNode) -> None:
    original, _ = deploy(node, "old")
    amend, _ = deploy(node, "new", replaces=original)
    assert version(node, original) == "new"
    forget(node, amend)
    assert version(node, original) == "old"
    assert node.get(amend).status_code == 410


def test_a_program_that_is_forgotten_answers_what_is_under_way_and_nothing_more(node: AlephNode) -> None:
    program, _ = deploy(node, "old")
    with under_way(node, program) as answer:
        forget(node, program)
        assert node.get(program).status_code == 410
    assert answer == ["end"]
    node.until(lambda: not node.processes_of(program))


def test_a_program_that_waits_for_its_code_runs_once_that_is_here(node: AlephNode) -> None:
    stored = node.client.post("/api/v0/storage/add_file", content=says("here").encode()).json()["hash"]
    store = node.wallet.store(stored, time=node.now())
    program = node.publish(node.wallet.program(store["item_hash"], time=node.now()), expect=202)
    answer = node.get(program)
    assert (answer.status_code, store["item_hash"] in answer.text) == (503, True)
    assert "retry-after" in answer.headers
    node.publish(store)
    assert version(node, program) == "here"
