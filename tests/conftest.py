"""Fixtures that every suite shares."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docker_engine import Engine, NoEngine, an_engine


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, as the node does."""
    return "asyncio"


@pytest.fixture(scope="session")
def layers_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give one directory of layers for the whole run, so that Python environments are built once."""
    return tmp_path_factory.mktemp("layers")


@pytest.fixture(scope="session")
def aleph_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give one directory of layers for the whole run to nodes with Aleph programs, one after the other."""
    return tmp_path_factory.mktemp("aleph-layers")


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Give a container engine; tests that need one are skipped where none can be had."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(an_engine())
        except NoEngine as error:
            pytest.skip(str(error))
        yield found
