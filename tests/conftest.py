"""Fixtures that every suite shares."""

from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, as the node does."""
    return "asyncio"


@pytest.fixture(scope="session")
def layers_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give one directory of layers for the whole run, so that Python environments are built once."""
    return tmp_path_factory.mktemp("layers")
