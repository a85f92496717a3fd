"""Runs that are written down, what they export, and how they are made again (contract, sections 2.5 and 4.6)."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from moorage.networks.aleph.messages.hashes import host_label
from tests.aleph_node import AlephNode, aleph_node

MOORAGE = Path(sys.executable).with_name("moorage")
WRITES = """
import json, os, pathlib

OUT = pathlib.Path("/out")

async def app(scope, receive, send):
    if scope["type"] == "aleph.message":
        (OUT / "event").write_text(json.loads(scope["body"])["item_hash"])
        await send({"took": True})
        return
    assert scope["type"] == "http"
    query = scope["query_string"].decode()
    if query == "big":
        (OUT / "big").write_bytes(os.urandom(40 << 20))
    elif query != "nothing":
        (OUT / "name").write_text(query)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"done " + scope["query_string"]})
"""
SHOWS = """
import json, pathlib, random, uuid

async def app(scope, receive, send):
    if scope["type"] == "aleph.message":
        await send({"took": json.loads(scope["body"])["item_hash"]})
        return
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    count = pathlib.Path("/kept/count")
    visits = int(count.read_text()) + 1 if count.parent.exists() and count.exists() else 1
    if count.parent.exists():
        count.write_text(str(visits))
    told = {
        "version": VERSION, "method": scope["method"], "path": scope["path"], "root": scope["root_path"],
        "query": scope["query_string"].decode(), "body": body.decode(), "hash": hash("text"), "visits": visits,
        "headers": sorted((name.decode(), value.decode("latin-1")) for name, value in scope["headers"]),
        "chance": str(uuid.uuid4()) if b"chance" in scope["query_string"] else None,
    }
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
"""
EXPORT = {"encoding": "zip", "mount": "/out"}
REPRODUCIBLE = {"environment": {"reproducible": True}}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers) as running:
        yield running


def about(node: AlephNode, run: str) -> Any:
    return node.client.get(f"/about/runs/{run}").json()


def ended(node: AlephNode, run: str) -> Any:
    """Wait until a run is over and written down."""
    return node.until(lambda: (told := about(node, run)).get("ended") and told)


def run_of(node: AlephNode, program: str, path: str = "/", method: str = "GET", **request: Any) -> Any:
    """Ask a program, and give the run that this was, once it is over."""
    answer = node.client.request(method, f"/vm/{program}{path}", **request)
    return ended(node, answer.headers["aleph-run-id"])


def exported(node: AlephNode, run: Any) -> bytes:
    stored = node.client.get(f"/api/v0/storage/raw/{run['export']['file_hash']}")
    assert stored.status_code == 200
    assert len(stored.content) == run["export"]["size"]
    return stored.content


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# Exports


def test_what_a_run_leaves_is_found_by_its_id(node: AlephNode) -> None:
    program = node.deploy(WRITES, export=EXPORT)
    run = run_of(node, program, "/?one")
    assert (run["item_hash"], run["trigger"], run["status"]) == (program, "http", 200)
    assert list(run["refs"]) == list(run["refs"].values())
    assert run["export"].keys() == {"encoding", "mount", "file_hash", "size"}
    assert (run["export"]["encoding"], run["export"]["mount"]) == ("zip", "/out")
    assert unzipped(exported(node, run)) == {"name": b"one"}


def test_the_same_content_has_the_same_hash(node: AlephNode) -> None:
    program = node.deploy(WRITES, export=EXPORT)
    hashes = [run_of(node, program, f"/?{name}")["export"]["file_hash"] for name in ("one", "two", "nothing", "one")]
    assert hashes[0] == hashes[3] != hashes[1] == hashes[2]


def test_an_answer_does_not_wait_for_the_export(node: AlephNode) -> None:
    program = node.deploy(WRITES, export=EXPORT, resources={"seconds": 20, "memory": 512})
    answer = node.get(program, "/?big")
    at_once = about(node, answer.headers["aleph-run-id"])
    assert answer.status_code == 200
    assert at_once["ended"] is None
    assert ended(node, answer.headers["aleph-run-id"])["export"]["size"] > 40 << 20


def test_each_of_many_runs_at_once_exports_what_it_left(node: AlephNode) -> None:
    program = node.deploy(WRITES.replace('"name"', "query"), export=EXPORT)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda number: node.get(program, f"/?{number}"), range(30)))
    for number, answer in enumerate(answers):
        assert str(number) in unzipped(exported(node, ended(node, answer.headers["aleph-run-id"])))


@pytest.mark.parametrize("encoding", ["tar.gzip", "squashfs", "plain"])
def test_an_export_is_in_the_encoding_that_is_asked_for(node: AlephNode, encoding: str) -> None:
    program = node.deploy(WRITES, export={"encoding": encoding, "mount": "/out"})
    data = exported(node, run_of(node, program, "/?said"))
    match encoding:
        case "plain":
            assert data == b"said"
        case "squashfs":
            assert data.startswith(b"hsqs")
        case "tar.gzip":
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                assert archive.getnames() == ["name"]


def test_an_export_can_be_the_data_of_another_program(node: AlephNode) -> None:
    export = run_of(node, node.deploy(WRITES, export=EXPORT), "/?passed")["export"]
    store = node.publish(node.wallet.store(export["file_hash"], time=node.now()))
    reads = WRITES.replace('b"done " + scope["query_string"]', 'open("/input/name", "rb").read()')
    for ref in (store, export["file_hash"]):
        data = {"encoding": "zip", "mount": "/input", "ref": ref, "use_latest": False}
        assert node.get(node.deploy(reads, data=data), "/?nothing").text == "passed"


def test_what_cannot_be_archived_is_told_to_the_owner(node: AlephNode) -> None:
    program = node.deploy(WRITES, export={"encoding": "plain", "mount": "/out"})
    run = run_of(node, program, "/?nothing")
    assert (run["status"], run["export"]) == (200, None)
    assert any("not stored: Only a directory with one file" in line.text for line in node.log(program))


def test_a_run_that_a_message_causes_exports_too_and_its_job_has_the_file(node: AlephNode) -> None:
    subscription = {"content": {"type": "exporting"}}
    program = node.deploy(WRITES, export=EXPORT, on={"http": False, "message": [subscription]})
    message = node.publish(node.wallet.post(kind="exporting", time=node.now()))
    job = job_of(node, program)
    run = about(node, job["id"])
    assert (run["trigger"], run["status"]) == ("message", 200)
    assert unzipped(exported(node, run)) == {"event": message.encode()}
    (output,) = node.client.get(f"/v1/jobs/{job['id']}/outputs").json()
    assert (output["path"], output["digest"]) == ("export.zip", run["export"]["file_hash"])


def test_an_instance_that_stops_after_each_request_exports_before(tmp_path: Path, aleph_layers: Path) -> None:
    with aleph_node(tmp_path / "data", layers=aleph_layers, idle_timeout=0) as node:
        program = node.deploy(WRITES, export=EXPORT)
        assert unzipped(exported(node, run_of(node, program, "/?kept"))) == {"name": b"kept"}
        node.until(lambda: not node.processes())


def test_what_a_draft_puts_out_beside_its_answer_is_the_export_of_its_run(node: AlephNode) -> None:
    program = node.deploy(
        "async def app(scope, receive, send):\n    await send({'output': 'hola!', 'output_data': b'\\0data'})\n"
    )
    answer = node.get(program)
    assert answer.text == "hola!"
    assert "moorage-output-data" not in answer.headers
    run = node.until(lambda: (told := about(node, answer.headers["aleph-run-id"])).get("export") and told)
    assert (run["export"]["encoding"], run["export"]["mount"]) == ("plain", None)
    assert exported(node, run) == b"\0data"


def test_what_claims_to_be_put_out_and_is_not_harms_nothing(node: AlephNode) -> None:
    server = (
        "#!/usr/bin/env python3\nfrom http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "class Handler(BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.send_response(204)\n"
        "        self.send_header('moorage-output-data', 'x')\n        self.end_headers()\n"
        "HTTPServer(('', 8080), Handler).serve_forever()\n"
    )
    program = node.deploy(server, entrypoint="server")
    assert [node.get(program).status_code for _ in range(2)] == [204, 204]
    node.until(lambda: any("not stored: What was put out" in line.text for line in node.log(program)))


def test_requests_to_a_program_that_asks_for_neither_are_not_written_down(node: AlephNode) -> None:
    program, recorded = node.deploy(WRITES), node.deploy(WRITES, export=EXPORT)
    run = node.get(program, "/?nothing").headers["aleph-run-id"]
    run_of(node, recorded)
    assert about(node, run) == {"error": f"No run {run}"}


# Runs that are made again


def job_of(node: AlephNode, program: str) -> Any:
    """Wait for the only run that a trigger of a program has caused."""
    query = {"label": f"program={program}", "state": "succeeded"}
    (job,) = node.until(lambda: node.client.get("/v1/jobs", params=query).json())
    return job


def moorage(node: AlephNode, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "MOORAGE_URL": node.url, "COLUMNS": "200"}
    return subprocess.run(
        [MOORAGE, "aleph", *arguments], env=env, capture_output=True, text=True, timeout=60, check=False
    )


def replayed(node: AlephNode, run: str) -> Any:
    done = moorage(node, "replay", run, "--json")
    assert done.returncode in {0, 1}, done.stderr
    told = json.loads(done.stdout)
    assert told["equal"] == (done.returncode == 0)
    return told


def showing(node: AlephNode, version: int = 1, **content: Any) -> str:
    return node.deploy(SHOWS.replace("VERSION", str(version)), **{**REPRODUCIBLE, **content})


def test_a_run_that_is_made_again_comes_to_the_same(node: AlephNode) -> None:
    program = showing(node, export=EXPORT)
    headers = [("x-twice", "one"), ("x-twice", "two"), ("x-raw", "é".encode())]
    run = run_of(node, program, "/a%2Fb?c=1%262", "POST", content=b"sent", headers=headers)
    done = moorage(node, "replay", run["run_id"])
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["RECORDED", "AGAIN"]
    assert [(line[0], line[-1]) for line in lines[1:]] == [("status", "equal"), ("body", "equal"), ("export", "equal")]
    assert lines[1] == ["status", "201", "201", "equal"]


def test_a_run_that_is_made_again_below_a_host_of_its_own_comes_to_the_same(node: AlephNode) -> None:
    program = showing(node)
    answer = node.client.get("/here", headers={"host": f"{host_label(program)}.localhost"})
    assert json.loads(answer.text)["root"] == ""
    ended(node, answer.headers["aleph-run-id"])
    assert replayed(node, answer.headers["aleph-run-id"])["equal"]


def test_what_differs_is_told(node: AlephNode) -> None:
    run = run_of(node, showing(node), "/?chance")
    done = moorage(node, "replay", run["run_id"])
    assert done.returncode == 1
    assert [line.split()[-1] for line in done.stdout.splitlines()[1:]] == ["equal", "different", "equal"]
    told = replayed(node, run["run_id"])
    assert [each["equal"] for each in told["compared"]] == [True, False, True]
    assert about(node, told["again"])["trigger"] == "replay"


def test_a_run_is_made_again_with_the_files_that_it_had(node: AlephNode) -> None:
    program = showing(node, more={"use_latest": True})
    run = run_of(node, program)
    (code,) = run["refs"]
    node.file(SHOWS.replace("VERSION", "2").encode(), ref=code)
    assert node.get(program).json()["version"] == 2
    assert replayed(node, run["run_id"])["equal"]


def test_a_run_that_is_made_again_leaves_the_volumes_of_its_program_alone(node: AlephNode) -> None:
    volume = {"persistence": "host", "name": "kept", "mount": "/kept", "size_mib": 10}
    program = showing(node, volumes=[volume])
    first, second = (run_of(node, program) for _ in range(2))
    assert replayed(node, first["run_id"])["equal"]
    assert not replayed(node, second["run_id"])["equal"], "a run that found a count is made again with an empty volume"
    assert node.get(program).json()["visits"] == 3
    assert list((node.served.node.directory.of_network("aleph") / "volumes").glob("run_*")) == []


def test_the_run_of_a_message_is_made_again_until_the_message_is_forgotten(node: AlephNode) -> None:
    program = showing(node, on={"http": False, "message": [{"content": {"type": "again"}}]})
    message = node.publish(node.wallet.post(kind="again", time=node.now()))
    job = job_of(node, program)
    assert replayed(node, job["id"])["equal"]
    node.publish(node.wallet.message("FORGET", {"hashes": [message], "time": node.now()}))
    done = moorage(node, "replay", job["id"])
    assert (done.returncode, "is forgotten" in done.stderr) == (2, True), done.stderr


def test_a_run_whose_body_was_too_long_or_that_is_none_is_not_made_again(node: AlephNode) -> None:
    run = run_of(node, showing(node), method="POST", content=b"x" * ((1 << 20) + 1))
    for name, reason in ((run["run_id"], "too long to be kept"), ("run_nowhere", "There is no run run_nowhere")):
        done = moorage(node, "replay", name)
        assert done.returncode == 2, done.stderr
        assert reason in done.stderr


# Messages of the node's own


def test_a_post_of_the_operator_starts_programs_that_want_it(node: AlephNode) -> None:
    program = showing(node, on={"http": False, "message": [{"content": {"type": "by hand"}, "channel": "C"}]})
    done = moorage(node, "post", "by hand", '{"a": 1}', "--channel", "C")
    assert done.returncode == 0, done.stderr
    message = done.stdout.strip()
    assert job_of(node, program)["value"]["result"] == {"took": message}
    shown = node.client.get(f"/api/v0/messages/{message}").json()["message"]
    assert (shown["content"]["content"], shown["sender"]) == ({"a": 1}, node.surface.key.address)


@pytest.mark.parametrize("content", ["{a: 1}", "[" * 5000], ids=["a name without quotes", "too deep"])
def test_a_post_that_is_no_json_is_a_wrong_usage(node: AlephNode, content: str) -> None:
    done = moorage(node, "post", "note", content)
    assert done.returncode == 2
    assert "is not valid JSON" in done.stderr


def test_only_the_operator_may_publish_in_the_name_of_the_node(node: AlephNode) -> None:
    headers = {"origin": "https://example.org"}
    for path in ("/v1/aleph/posts", "/v1/aleph/runs/run_x/replay"):
        answer = node.client.post(path, json={"type": "note", "content": 1}, headers=headers)
        assert answer.status_code == 403
