"""Programs on a real node: published over HTTP, called over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.aleph_node import AlephNode, aleph_node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("node") / "data", layers=aleph_layers) as running:
        yield running


def test_a_published_program_answers_below_its_hash(node: AlephNode) -> None:
    program = node.deploy()
    answer = node.get(program)
    assert (answer.status_code, answer.text) == (200, "hello"), node.log(program)
    assert answer.headers["aleph-program-itemhash"] == program
