"""The network's own SDK, unmodified as it is on PyPI, finds in this node what it knows of its network's nodes.

Items 8, 10, 43, 44 and 46 of the acceptance checklist (contract, section 8).
"""

from pathlib import Path
from typing import Any

import pytest

from tests.aleph_node import aleph_node
from tests.aleph_sdk import drive, install

FILE = "2d3aaf35a9bbf666d3908000cdf581bf581f974a3697ac48955d9000ace2b58e"
PROCESSED, PENDING, FORGOTTEN = (f"MessageStatus.{status}" for status in ("PROCESSED", "PENDING", "FORGOTTEN"))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the interpreter of an environment with the SDK."""
    return install(tmp_path_factory.mktemp("sdk") / "env")


@pytest.fixture(scope="module")
def seen(python: Path, tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> dict[str, Any]:
    """Let the SDK do all it can, once; give what it saw."""
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers) as node:
        return drive(python, "aleph_driver.py", node.url)


def refused(answer: dict[str, Any], code: int) -> bool:
    return answer["error"] == "InvalidMessageError" and f"'error_code': {code}," in answer["text"]


def test_files_are_stored_by_sha256_and_by_the_cid_that_the_sdk_computed(seen: dict[str, Any]) -> None:
    assert seen["stored"] == [PROCESSED, PROCESSED]
    assert seen["hashes"][0] == FILE
    assert seen["hashes"][1].startswith("Qm")
    assert seen["downloads"] == [True, True]
    assert seen["pushed"][0] == FILE
    assert seen["stored content"]["url"].endswith(f"/api/v0/storage/raw/{FILE}")
    assert seen["absent file"]["error"] == "ResourceNotFoundError"


def test_an_update_of_an_update_is_refused_and_a_file_that_is_not_here_waited_for(seen: dict[str, Any]) -> None:
    assert seen["update of an update"]["error"] == "ClientResponseError"
    assert seen["update of an update"]["text"].startswith("422,")
    assert seen["late"] == [PENDING, PENDING]


def test_a_program_is_published_also_with_a_message_of_more_than_50_000_bytes(seen: dict[str, Any]) -> None:
    assert seen["program"][0] == PROCESSED
    assert seen["large program"] == [PROCESSED, "ItemType.storage", 20]
    assert seen["by type"] == 2


def test_nothing_costs_anything(seen: dict[str, Any]) -> None:
    assert seen["price"] == ["0.0", "hold", "0"]
    assert seen["program price"] == "hold"
    assert seen["pricing"] == ["program", "program_persistent"]
    assert seen["balance"] is True


def test_the_reason_why_a_program_was_refused_can_be_asked_for(seen: dict[str, Any]) -> None:
    assert seen["refused program"]["text"].startswith("Unknown error code 2: ")
    assert "may not send PROGRAM messages" in seen["refused program"]["text"]


def test_a_post_shows_its_newest_amend(seen: dict[str, Any]) -> None:
    assert seen["post"] == PROCESSED
    assert seen["posts"] == [[{"text": "amended"}, True, "note"]]
    assert (seen["tagged"], seen["posts by cursor"]) == (1, 1)
    assert seen["large"] == ["ItemType.storage", 60_000]


def test_aggregates_are_merged_shallowly(seen: dict[str, Any]) -> None:
    assert seen["aggregate"] == {"a": 1, "b": {"d": 2}}
    assert seen["aggregates"] == ["settings"]
    assert seen["no aggregate"] is None


def test_a_delegate_publishes_what_the_owner_allows(seen: dict[str, Any]) -> None:
    assert refused(seen["foreign"], 2)
    assert seen["delegated"] == PROCESSED
    assert refused(seen["delegated too far"], 2)


def test_a_watcher_sees_what_was_and_then_each_message_once(seen: dict[str, Any]) -> None:
    assert seen["watched"] == [[True], *(f"MessageType.{kind}" for kind in ("post", "store", "post"))]


def test_pages_cursors_and_one_long_list_hold_the_same(seen: dict[str, Any]) -> None:
    assert seen["pages"] == [15, True, True]
    assert seen["iterated"] is True


def test_what_is_forgotten_is_gone_and_a_program_keeps_its_files(seen: dict[str, Any]) -> None:
    assert seen["forget"][0] == PROCESSED
    assert seen["forgotten"]["error"] == "ForgottenMessageError"
    assert seen["forget"][1] in seen["forgotten"]["text"]
    assert seen["forgotten status"] == FORGOTTEN
    assert refused(seen["used file"], 503)
    assert refused(seen["forget of a forget"], 502)


def test_what_was_never_here_is_not_found(seen: dict[str, Any]) -> None:
    assert seen["unknown"]["error"] == seen["unknown status"]["error"] == "MessageNotFoundError"


def test_a_program_runs_its_amended_code_and_is_gone_once_it_is_forgotten(seen: dict[str, Any]) -> None:
    assert seen["read back"] is True
    assert seen["queried"] is True
    assert seen["first"] == [200, {"version": 1, "hash": True, "visits": 1, "greeting": "hello"}]
    assert seen["second"] == [200, {"version": 1, "hash": True, "visits": 2, "greeting": "hello"}]
    assert seen["amended"] == [200, {"version": 2, "hash": True, "visits": 3, "greeting": "hello"}]
    assert seen["after that"] == 410
