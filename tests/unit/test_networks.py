"""The network of a source is found, or the answer says what would be."""

from pathlib import Path

import pytest

from moorage.errors import SourceNotRecognized, UnknownNetwork
from moorage.networks.base import choose, installed_networks


def test_a_folder_with_main_py_is_an_infrax_app(tmp_path: Path):
    (tmp_path / "main.py").touch()
    assert choose(installed_networks(), tmp_path, None).name == "infrax"


def test_a_source_that_no_network_knows_is_told_what_they_look_for(tmp_path: Path):
    with pytest.raises(SourceNotRecognized) as caught:
        choose(installed_networks(), tmp_path, None)
    assert "infrax: a folder or archive with main.py" in (caught.value.hint or "")


def test_a_network_that_is_not_installed_is_refused_with_those_that_are(tmp_path: Path):
    with pytest.raises(UnknownNetwork) as caught:
        choose(installed_networks(), tmp_path, "nonesuch")
    assert "infrax" in (caught.value.hint or "")
