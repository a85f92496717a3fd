"""What a requirements file tells before it is resolved."""

import pytest

from moorage.layers.requirements import names_an_index, refers_to_local

REMOTE = [
    "", "# -e .\n\n", "idna", "idna==3.10", "idna ~= 3.1 ; python_version < '3.12'", "requests[socks,security]>=2",
    "idna (>=3)", "zope.interface", "idna # ./local", "idna==3.10 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11",
    "https://example.org/idna-3.10-py3-none-any.whl", "idna @ https://example.org/idna.whl", "idna@https://e.org/i.whl",
    "git+https://example.org/x.git@v1#egg=x", "-i https://example.org/simple", "--index-url=https://example.org/simple",
    "--extra-index-url https://example.org/simple\nidna", "--pre", "--only-binary :all:", "--require-hashes",
]  # fmt: skip
LOCAL = [
    "-r other.txt", "-rother.txt", "--requirement other.txt", "-c constraints.txt", "-e .", "--editable ./x", ".",
    "./wheel.whl", "../x", "/opt/x", "sub/dir", "pkg/", "idna-3.10-py3-none-any.whl", "idna-3.10.tar.gz", "x.ZIP ; os",
    "file:///x", "file:x.whl", "idna @ file:///app/idna.whl", "idna @ ./idna", "git+file:///app", "~/x", "${HOME}/x",
    "-f ./wheels", "--find-links wheels", "-i file:///index", "--an-option-of-tomorrow", "idna\n./x # local",
]  # fmt: skip


@pytest.mark.parametrize("text", REMOTE)
def test_what_comes_from_an_index_or_a_url_is_not_local(text: str) -> None:
    assert not refers_to_local(text)


@pytest.mark.parametrize("text", LOCAL)
def test_what_may_be_a_file_of_the_app_is_local(text: str) -> None:
    assert refers_to_local(text)


def test_an_index_that_the_file_names_is_noticed() -> None:
    assert names_an_index("idna\n  --extra-index-url https://example.org/simple")
    assert names_an_index("-f https://example.org/")
    assert not names_an_index("# -i https://example.org/\nidna\n-e .")
