"""A sandbox to break out of."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moorage.sandbox.bubblewrap import Bubblewrap
from moorage.sandbox.opening import open_sandboxes


@pytest.fixture
async def bubblewrap(tmp_path: Path) -> AsyncIterator[Bubblewrap]:
    opened = (await open_sandboxes(data_dir=tmp_path, run_dir=tmp_path / "run", warm=100))["bubblewrap"]
    assert isinstance(opened, Bubblewrap)
    yield opened
    await opened.close()


@pytest.fixture
def sandbox(bubblewrap: Bubblewrap) -> Bubblewrap:
    return bubblewrap
