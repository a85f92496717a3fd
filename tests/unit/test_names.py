"""Names from outside: which become paths and which are refused (InfraX contract, section 5.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.blobs.names import contained, join, refuse_duplicates, safe_path, shown
from moorage.errors import FileBadPath, FileDuplicate

GOOD = ["main.py", "a/b/c.txt", ".hidden", "...", "..a", "a..", "ä/ö.txt", "two words", "x" * 255, "-rf", "~", "a:b"]
BAD = [
    "", "/", "/etc/passwd", "//a", "..", "../a", "a/..", "a/../b", ".", "./a", "a/./b", "a//b", "a/", "a\0b",
    "a\\b", "a\nb", "a\x7f", "a\x85b", "x" * 256, "é" * 128, "a/" * 1100 + "b", "caf\udce9",
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_an_ordinary_relative_name_is_taken_as_it_is(name: str) -> None:
    assert safe_path(name) == name


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_leads_elsewhere_or_cannot_be_stored_is_refused(name: str) -> None:
    with pytest.raises(FileBadPath) as caught:
        safe_path(name)
    assert shown(name) in caught.value.message
    assert caught.value.message.isprintable()


@given(st.text(st.characters(), max_size=40))
def test_whatever_is_taken_stays_below_the_directory_it_is_put_in(name: str) -> None:
    try:
        path = safe_path(name)
    except FileBadPath:
        return
    assert path == name
    assert path.encode().decode() == path
    assert not path.startswith("/")
    assert {"", ".", ".."}.isdisjoint(path.split("/"))
    assert "\0" not in path
    assert contained(path) == tuple(path.split("/"))


@pytest.mark.parametrize(
    ("path", "name", "joined"),
    [(None, "a.txt", "a.txt"), ("", "a.txt", "a.txt"), ("d", "a.txt", "d/a.txt"), ("d/e/", "a", "d/e/a")],
)
def test_path_and_name_make_one_path(path: str | None, name: str, joined: str) -> None:
    assert join(path, name) == joined


@pytest.mark.parametrize(
    ("path", "name"), [("d", "../../x"), ("..", "x"), ("/", "x"), ("d", "/x"), ("d//", "x"), ("d", "")]
)
def test_path_and_name_are_checked_together(path: str, name: str) -> None:
    with pytest.raises(FileBadPath):
        join(path, name)


@pytest.mark.parametrize("names", [["a", "b/a", "a"], ["a", "a/b"], ["a/b/c", "x", "a"], ["a/b/c/d", "a/b"]])
def test_two_files_that_cannot_lie_in_one_directory_are_refused(names: list[str]) -> None:
    with pytest.raises(FileDuplicate):
        refuse_duplicates(names)


def test_files_that_share_directories_or_beginnings_are_no_duplicates() -> None:
    refuse_duplicates(["a/b", "a/c", "ab", "A", "b", "a.b/c"])


@pytest.mark.parametrize("path", ["../a", "a/../b", "/a", "a//b", "", "a\0"])
def test_a_path_that_leads_out_is_refused_even_where_odd_names_are_welcome(path: str) -> None:
    assert contained("odd\\na\nme/x") == ("odd\\na\nme", "x")
    with pytest.raises(FileBadPath):
        contained(path)
