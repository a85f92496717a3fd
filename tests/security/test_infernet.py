"""What an uploaded app, a container, a client or a page may try with an Infernet node, and what stops it."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moorage.client import Client
from moorage.errors import BadManifest, Forbidden, NotFound
from moorage.model.states import AppState
from tests.infernet import Exchange, Node, Seen, container, infernet, until
from tests.serving import Served, serving

FOLDER = 'network = "infernet"\ncommand = ["python", "app.py"]\n'


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "data") as node:
        yield node


def token(served: Served, name: str) -> str:
    """Make a token of no operator, through the socket that only the node's own user can open."""
    with Client(str(served.socket)) as client:
        return client.add_token(name, operator=False)


@pytest.fixture
def mallory(served: Served) -> Iterator[Client]:
    """Somebody with a token who is no operator."""
    with Client(served.url, token=token(served, "mallory")) as client:
        yield client


def config(folder: Path, container: dict[str, Any], **more: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"containers": [{"id": "c", **container}], **more}))
    return folder


@pytest.mark.parametrize(
    ("asked", "more", "told"),
    [
        ({"url": "http://127.0.0.1:2375"}, {"manage_containers": False}, "requests to an address"),
        ({"image": "busybox"}, {}, "access to the network"),
        ({"image": "busybox", "moorage": {"network": "none"}, "gpu": True}, {}, "`gpu`"),
        ({"image": "busybox", "moorage": {"network": "none"}, "volumes": ["data:/data"]}, {}, "`volumes`"),
        ({"image": "busybox", "moorage": {"network": "none", "isolation": "runc"}}, {}, "`moorage.isolation`"),
    ],
)
def test_what_is_the_operators_is_not_given_to_the_app_of_somebody_else(
    mallory: Client, tmp_path: Path, asked: dict[str, Any], more: dict[str, Any], told: str
) -> None:
    with pytest.raises(Forbidden, match=told):
        mallory.add_app_from(config(tmp_path / "app", asked, **more), network="infernet")


def test_a_folder_that_asks_for_nothing_is_anybodys_to_add(mallory: Client, tmp_path: Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "moorage.toml").write_text(FOLDER)
    (folder / "app.py").write_text("")
    added = mallory.add_app_from(folder, network="infernet")
    assert mallory.wait_app(added.id, timeout=60).state is AppState.TESTING


@pytest.mark.parametrize(
    "more",
    [
        '[infernet.moorage]\nisolation = "host"\n',
        '[infernet]\nvolumes = ["/etc:/mnt"]\n',
    ],
)
def test_no_app_chooses_its_isolation_or_reaches_out_of_its_folder(served: Served, tmp_path: Path, more: str) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "moorage.toml").write_text(FOLDER + more)
    with Client(str(served.socket)) as client, pytest.raises(BadManifest):
        client.add_app_from(folder, network="infernet")


def test_no_folder_of_the_machine_becomes_an_apps(served: Served, tmp_path: Path) -> None:
    folder = config(tmp_path / "app", {"command": "ls", "moorage": {"directory": "/etc"}})
    with Client(str(served.socket)) as client, pytest.raises(BadManifest, match="outside of the app's folder"):
        client.add_app_from(folder, network="infernet")


def test_requirements_outside_of_the_app_are_neither_read_nor_told_of(served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    for name in ("../../../../../../etc/hostname", "../../../../../../nothing-there"):
        (folder / "moorage.toml").write_text(f'network = "infernet"\ncommand = ["true"]\npython = "{name}"\n')
        with Client(str(served.socket)) as client, pytest.raises(BadManifest, match="which is no file of the app"):
            client.add_app_from(folder, network="infernet")
    assert list(served.node.directory.staging.iterdir()) == []


def test_a_token_with_the_name_of_the_network_gets_nothing_of_its_clients(tmp_path: Path) -> None:
    with container("a") as echo, infernet(tmp_path, [{"id": "a", "url": echo.url}]) as node:
        job = node.submit("a")
        node.result(job)
        with Client(node.served.url, token=token(node.served, "infernet")) as client:
            with pytest.raises(NotFound):
                client.job(job)
            assert client.jobs() == []


def test_secrets_of_the_configuration_are_in_no_answer_and_in_no_app(tmp_path: Path) -> None:
    secrets = {"bearer": "s3cr3t-bearer", "env": {"KEY": "s3cr3t-env"}}
    with container("a") as echo, infernet(tmp_path, [{"id": "a", "url": echo.url, **secrets}]) as node:
        node.done("a")
        shown = [node.client.get(path).text for path in ("/info", "/v1/apps", "/v1/services", "/v1/jobs")]
        assert "s3cr3t" not in "".join(shown)


def test_a_container_cannot_send_the_node_to_another_host(tmp_path: Path) -> None:
    with container("a") as echo, container("victim") as victim:
        target = f"{victim.url}/private"

        def redirect(exchange: Exchange, seen: Seen) -> None:
            exchange.reply(b"", 302, None, Location=target)

        echo.answer = redirect
        with infernet(tmp_path, [{"id": "a", "url": echo.url}]) as node:
            assert node.client.get("/resources").json() == {}
            node.result(node.submit("a"))
        assert victim.seen == []


def test_a_page_under_a_name_of_its_own_reads_nothing(node: Node) -> None:
    job = node.submit("a")
    for path in ("/api/jobs", f"/api/jobs?id={job}", "/info"):
        assert node.client.get(path, headers={"host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("host", ["[", "[::1", "a]b", "%00", ""])
def test_no_host_header_is_too_strange(node: Node, host: str) -> None:
    with node.raw(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()) as connection:
        assert connection.recv(100).startswith((b"HTTP/1.1 421", b"HTTP/1.1 400"))


def test_a_chain_is_not_longer_than_anybody_needs(node: Node) -> None:
    answer = node.client.post("/api/jobs", json={"containers": ["a"] * 65, "data": {}})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("containers: ")


def test_a_client_that_reads_nothing_does_not_keep_the_container(tmp_path: Path) -> None:
    def flood(exchange: Exchange, seen: Seen) -> None:
        if seen.document["destination"] != 2:
            exchange.json({"free": True})
            return
        exchange.stream()
        for _ in range(400):
            exchange.chunk(bytes(256 * 1024))
        exchange.end()

    with container("a") as slow:
        slow.answer = flood
        extras = {"concurrency": 1, "stream_idle_timeout": 0.5}
        with infernet(tmp_path, [{"id": "a", "url": slow.url, "moorage": extras}]) as node:
            body = json.dumps({"containers": ["a"], "data": {}}).encode()
            head = "POST /api/jobs/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            silent = socket.create_connection(("127.0.0.1", int(node.served.url.rpartition(":")[2])))
            with silent:
                silent.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                begun = time.monotonic()
                assert node.done("a") == {"container": "a", "output": {"free": True}}
                assert time.monotonic() - begun < 10


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with container("a") as echo, infernet(tmp_path, [{"id": "a", "url": echo.url}]) as node:
        until(lambda: node.client.get("/health").status_code == 200)
        yield node
