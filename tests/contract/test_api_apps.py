"""The life of apps over HTTP, through the client."""

import os
import zipfile
from pathlib import Path

import httpx
import pytest

from moorage.client import Client
from moorage.errors import (
    AppNotEditable,
    BadApp,
    BadArchive,
    FileBadPath,
    FileDuplicate,
    IllegalTransition,
    InputUnavailable,
    NotFound,
    SourceNotFound,
    UnknownNetwork,
)
from moorage.model.apps import App
from moorage.model.states import AppState
from tests.serving import Served


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "lib").mkdir(parents=True)
    (folder / "main.py").write_text("import lib.tools")
    (folder / "lib" / "tools.py").write_text("")
    return folder


def leftovers(served: Served) -> list[Path]:
    return list(served.node.directory.staging.iterdir())


def test_a_folder_becomes_an_app(client: Client, source: Path, served: Served) -> None:
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "link").symlink_to("main.py")
    added = client.add_app_from(source, name="folder", meta={"description": "d"})
    app = client.wait_app(added.id, timeout=60)
    assert (app.state, app.name, app.network, app.owner) == (AppState.TESTING, "folder", "infrax", "local")
    assert app.meta == {"description": "d"}
    assert client.app(app.id) == app
    assert leftovers(served) == []


def test_the_same_files_make_the_same_digest_however_they_come(client: Client, source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for path in source.rglob("*.py"):
            target.write(path, path.relative_to(source))
    files = [client.upload_file(path, str(path.relative_to(source))) for path in source.rglob("*.py")]
    listed = [{"name": ref.path, "digest": ref.digest} for ref in files]
    by_files = client._node.read(App, "POST", "/v1/apps", json={"source": {"type": "files", "files": listed}})
    digests = {client.add_app_from(source).digest, client.add_app_from(archive).digest, by_files.digest}
    assert len(digests) == 1


def test_an_executable_file_does_not_make_the_stored_bytes_executable(client: Client, served: Served) -> None:
    digest, _ = client.upload([b"print()"])
    files = [{"name": "main.py", "digest": digest}, {"path": "bin", "name": "x", "digest": digest, "executable": True}]
    app = client._node.read(App, "POST", "/v1/apps", json={"source": {"type": "files", "files": files}})
    assert client.wait_app(app.id, timeout=60).state is AppState.TESTING
    assert served.node.blobs.path(digest).stat().st_mode & 0o111 == 0


def test_a_single_file_can_be_an_app(client: Client, source: Path) -> None:
    app = client.add_app_from(source / "main.py", network="infrax")
    assert client.wait_app(app.id, timeout=60).state is AppState.TESTING


def test_a_bad_source_is_refused_and_leaves_nothing(client: Client, tmp_path: Path, served: Served) -> None:
    (tmp_path / "notes.txt").write_text("no app")
    known = len(client.apps(limit=1000))
    with pytest.raises(BadApp, match=r"main\.py"):
        client.add_app_from(tmp_path, network="infrax")
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(BadArchive):
        client.add_app_from(tmp_path / "bad.zip")
    with pytest.raises(UnknownNetwork):
        client.add_app_from(tmp_path, network="arpanet")
    assert len(client.apps(limit=1000)) == known
    assert leftovers(served) == []


def test_a_source_that_cannot_be_sent_is_named(client: Client, source: Path) -> None:
    os.mkfifo(source / "pipe")
    with pytest.raises(BadApp, match="pipe"):
        client.add_app_from(source)
    with pytest.raises(SourceNotFound):
        client.add_app_from(source / "nowhere")


@pytest.mark.parametrize("name", ["../main.py", "/main.py", "a/../main.py", "a\\b", "a\x00b", "", "a//b"])
def test_an_unsafe_name_is_refused(client: Client, name: str) -> None:
    digest, _ = client.upload([b"print()"])
    with pytest.raises(FileBadPath):
        client._node.call(
            "POST", "/v1/apps", json={"source": {"type": "files", "files": [{"name": name, "digest": digest}]}}
        )


def test_two_files_of_one_name_and_unknown_bytes_are_refused(client: Client) -> None:
    digest, _ = client.upload([b"print()"])
    twice = [{"name": "main.py", "digest": digest}, {"path": "", "name": "main.py", "digest": digest}]
    with pytest.raises(FileDuplicate):
        client._node.call("POST", "/v1/apps", json={"source": {"type": "files", "files": twice}})
    for missing in (
        {"type": "files", "files": [{"name": "main.py", "digest": "0" * 64}]},
        {"type": "archive", "digest": "0" * 64},
    ):
        with pytest.raises(InputUnavailable):
            client._node.call("POST", "/v1/apps", json={"source": missing})


def test_an_app_goes_through_its_states(client: Client, source: Path) -> None:
    app = client.wait_app(client.add_app_from(source, name="states").id, timeout=60)
    assert client.edit_app(app.id, name="renamed").name == "renamed"
    (source / "main.py").write_text("print('changed')")
    assert client.edit_app(app.id, source=source).digest != app.digest
    assert client.change_app(app.id, AppState.PUBLISHED).published
    with pytest.raises(AppNotEditable):
        client.edit_app(app.id, name="again")
    with pytest.raises(IllegalTransition):
        client.change_app(app.id, AppState.TESTING)
    for state in (AppState.HIDDEN, AppState.PUBLISHED, AppState.REMOVED):
        assert client.change_app(app.id, state).state is state
    topics = [event.topic for event in client.events(app.id)]
    assert [topic for topic in topics if topic.startswith("app.")] == [
        "app.created", "app.testing", "app.edited", "app.edited", "app.published", "app.hidden", "app.published",
        "app.removed",
    ]  # fmt: skip
    assert [event.topic for event in client.follow_events(app.id)] == topics


def test_an_app_that_is_not_deployed_waits_for_its_author(client: Client, source: Path) -> None:
    app = client.add_app_from(source, deploy=False)
    assert client.wait_app(app.id, timeout=0.2).state is AppState.CREATED
    client.change_app(app.id, AppState.TESTING)
    assert client.wait_app(app.id, timeout=60).state is AppState.TESTING


def test_apps_are_listed_newest_first_and_by_page(client: Client, source: Path) -> None:
    ids = [client.add_app_from(source, name="paged").id for _ in range(3)]
    assert [app.id for app in client.apps(name="paged")] == ids[::-1]
    (newest,) = client.apps(name="paged", limit=1)
    assert [app.id for app in client.apps(name="paged", before=newest.id)] == ids[1::-1]
    assert client.apps(name="paged", state=AppState.HIDDEN) == []


def test_somebody_elses_unpublished_app_is_not_there(served: Served, source: Path) -> None:
    with Client(served.socket) as operator:
        mine = operator.wait_app(operator.add_app_from(source).id, timeout=60)
        token = operator.add_token("bob")
        try:
            with Client(served.url, token=token) as bob:
                with pytest.raises(NotFound):
                    bob.app(mine.id)
                operator.change_app(mine.id, AppState.PUBLISHED)
                assert bob.app(mine.id).published
        finally:
            operator.remove_token("bob")


def test_a_malformed_source_says_what_is_wrong(served: Served) -> None:
    answer = httpx.post(f"{served.url}/v1/apps", json={"source": {"type": "ftp"}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/source"
