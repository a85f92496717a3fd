"""The key that the node signs with."""

from pathlib import Path

import pytest

from moorage.errors import BadKey
from moorage.networks.aleph.key import open_key


def test_a_key_is_made_once_and_only_its_user_reads_it(tmp_path: Path) -> None:
    made = open_key(tmp_path / "key")
    assert open_key(tmp_path / "key") == made
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32])
def test_a_file_that_holds_no_key_is_told_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(BadKey, match="64 hexadecimal digits"):
        open_key(tmp_path / "key")
    assert (tmp_path / "key").read_text() == text


def test_a_file_that_a_crash_left_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "key.new").write_text("ab")
    open_key(tmp_path / "key")
    assert not (tmp_path / "key.new").exists()
