"""What an app writes, on its way to the terminal."""

import pytest

from moorage.cli.watch import Shown


@pytest.mark.parametrize(
    ("chunks", "terminal", "shown"),
    [
        ([b"word"], True, "word\n"),
        ([b"word\n"], True, "word\n"),
        ([], True, ""),
        ([b"word"], False, "word"),
    ],
)
def test_what_follows_does_not_stick_to_the_last_line_on_a_terminal(
    chunks: list[bytes],
    terminal: bool,
    shown: str,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    writer = Shown()
    for chunk in chunks:
        writer("stdout", chunk)
    writer.end_line()
    assert capsysbinary.readouterr().out == shown.encode()
