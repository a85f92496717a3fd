"""What a person types about files and arguments."""

import os
from pathlib import Path

import pytest

from moorage.cli.inputs import data, input_files, settings
from moorage.errors import BadUsage, FileBadPath, FileDuplicate, SourceNotFound


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters" / "old").mkdir(parents=True)
    (tmp_path / "letters" / "a.txt").write_text("a")
    (tmp_path / "letters" / "old" / "b.txt").write_text("b")
    (tmp_path / "c=d.txt").write_text("c")
    return tmp_path


def test_a_file_keeps_its_name_and_a_folder_the_relative_paths_of_its_files(here: Path) -> None:
    files = input_files(["letters/a.txt"])
    assert files == {"a.txt": Path("letters/a.txt")}
    files = input_files(["letters"])
    assert files == {"a.txt": Path("letters/a.txt"), "old/b.txt": Path("letters/old/b.txt")}


def test_a_name_before_the_path_renames_a_file_and_prefixes_a_folder(here: Path) -> None:
    assert list(input_files(["x/y.txt=letters/a.txt", "z=letters"])) == ["x/y.txt", "z/a.txt", "z/old/b.txt"]


def test_a_path_that_exists_as_it_stands_is_a_path_whatever_its_name_holds(here: Path) -> None:
    assert input_files(["c=d.txt"]) == {"c=d.txt": Path("c=d.txt")}


def test_two_inputs_of_one_name_are_refused_naming_both(here: Path) -> None:
    with pytest.raises(FileDuplicate, match=r"letters/a\.txt and letters/old/b\.txt"):
        input_files(["letters/a.txt", "a.txt=letters/old/b.txt"])


def test_what_is_no_regular_file_is_refused_rather_than_left_out(here: Path) -> None:
    with pytest.raises(SourceNotFound, match="nowhere"):
        input_files(["nowhere"])
    (here / "letters" / "dangling").symlink_to("gone")
    with pytest.raises(SourceNotFound, match="dangling"):
        input_files(["letters"])
    (here / "letters" / "dangling").unlink()
    os.mkfifo(here / "letters" / "pipe")
    with pytest.raises(FileBadPath, match="pipe"):
        input_files(["letters"])


def test_a_name_that_is_not_utf8_is_refused(here: Path) -> None:
    (here / os.fsdecode(b"caf\xe9")).write_text("")
    with pytest.raises(FileBadPath, match="UTF-8"):
        input_files([os.fsdecode(b"caf\xe9")])


def test_settings_split_at_the_first_equals_sign() -> None:
    assert settings(["a=b=c", "empty=", "a2=-5"]) == {"a": "b=c", "empty": "", "a2": "-5"}
    with pytest.raises(BadUsage, match="no-value"):
        settings(["no-value"])


def test_data_is_a_json_object_given_as_text_or_in_a_file(here: Path) -> None:
    (here / "data.json").write_text('{"kwargs": {"n": 1}}')
    assert data(None) is None
    assert data('{"n": [1, null]}') == {"n": [1, None]}
    assert data("@data.json") == {"kwargs": {"n": 1}}


@pytest.mark.parametrize(
    ("value", "error"),
    [("[1]", BadUsage), ("{", BadUsage), ("@nowhere.json", SourceNotFound), ("@letters", SourceNotFound)],
)
def test_data_that_is_no_json_object_is_refused(here: Path, value: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        data(value)
