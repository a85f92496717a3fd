"""The documentation tells the truth: nothing stale, no dead link, no command that is not there."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from moorage.cli.main import app
from moorage.node.config import NodeConfig

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(moorage [^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def test_the_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "reference.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_documentation_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    dead = [link for link in LINK.findall(text) if not link.startswith("https://") and not _target_exists(page, link)]
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_the_documentation_is_one_that_there_is(page: Path) -> None:
    for command in _commands(page.read_text()):
        try:
            app.parse_args(shlex.split(command)[1:], print_error=False, exit_on_error=False)
        except CycloptsError as error:
            pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_toml_example_is_valid(page: Path) -> None:
    for language, _, body in FENCE.findall(page.read_text()):
        if language == "toml" and "[infrax]" not in body:
            NodeConfig(**tomllib.loads(body))


def test_the_readme_leads_to_every_page() -> None:
    linked = {(ROOT / link).resolve() for link in LINK.findall((ROOT / "README.md").read_text())}
    assert set(ROOT.glob("docs/**/*.md")) <= linked


def _target_exists(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in _anchors(target.read_text()))


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _commands(text: str) -> Iterator[str]:
    """Give the whole commands of the shell examples, and those in running text that have all their arguments."""
    for language, _, body in FENCE.findall(text):
        if language in {"sh", "ini"} or language == "":
            lines = body.replace("\\\n", " ").splitlines()
            yield from (line[match.start() :] for line in lines if (match := re.search(r"\bmoorage \w", line)))
    for command in INLINE.findall(text):
        if shlex.split(command)[-1].isupper():
            yield command
