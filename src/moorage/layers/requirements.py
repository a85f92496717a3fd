"""What the text of a requirements file tells before anything is resolved."""

import re
from collections.abc import Iterator

_NAME = r"[A-Za-z0-9][\w.-]*"
_REMOTE = r"(?:https?|git\+https?|git\+ssh)://"
_PLAIN = re.compile(rf"{_NAME}\s*(?:\[[\w.,\s-]*\])?\s*(?:$|[<>=!~;(]|@\s*{_REMOTE})|{_REMOTE}")
_ARCHIVE = re.compile(r"\S+\.(?:whl|zip|tar|tar\.\w+|tgz|tbz|txz)(?:\s|;|$)", re.IGNORECASE)
_REMOTE_OPTION = re.compile(
    rf"(?:-i|--index-url|--extra-index-url|-f|--find-links)[\s=]+{_REMOTE}"
    r"|--(?:pre|prefer-binary|require-hashes|no-index|no-binary|only-binary|trusted-host|use-feature)\b"
)
_INDEX = re.compile(r"(?:-i|--index-url|--extra-index-url|-f|--find-links)\b")
_COMMENT = re.compile(r"(?:^|\s)#.*$")


def refers_to_local(text: str) -> bool:
    """Tell whether a line may refer to content of the app itself (InfraX contract, section 2, step 3).

    Such are `-r`, `-c`, `-e`, a path, a `file:` URL. Whatever is not plainly something else counts as local: the
    price is a layer that is not shared, while the other mistake would serve a stale one.
    """
    return any(not _is_remote(line) for line in _lines(text))


def names_an_index(text: str) -> bool:
    """Tell whether the file says itself where packages are to be had."""
    return any(_INDEX.match(line) for line in _lines(text))


def _lines(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        if stripped := _COMMENT.sub("", line).strip():
            yield stripped


def _is_remote(line: str) -> bool:
    if line.startswith("-"):
        return bool(_REMOTE_OPTION.match(line))
    if re.match(_REMOTE, line):
        return True
    return bool(_PLAIN.match(line)) and ("://" in line or not _ARCHIVE.match(line))
