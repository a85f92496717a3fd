"""Without mounts, paths of the sandbox are turned into paths of the machine."""

import pytest

from moorage.sandbox.host import translate

PLACES = {"/app": "/data/w/upper", "/app/input": "/data/in", "/opt/env": "/data/layers/env", "/home/app": "/data/home"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/app", "/data/w/upper"),
        ("/app/main.py", "/data/w/upper/main.py"),
        ("/app/input/photo", "/data/in/photo"),
        ("/application", "/application"),
        ("/opt/env/bin/python", "/data/layers/env/bin/python"),
        ("--file=/app/x", "--file=/app/x"),
        ("app/main.py", "app/main.py"),
        ("/usr/bin/env", "/usr/bin/env"),
        ("", ""),
    ],
)
def test_the_longest_target_that_the_path_begins_with_is_replaced(text: str, expected: str) -> None:
    assert translate(text, PLACES) == expected
