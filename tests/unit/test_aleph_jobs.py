"""What becomes of the answers that programs give to the node itself."""

import pytest

from moorage.errors import ProgramFailed
from moorage.networks.aleph.programs.jobs import _handled


def test_what_a_handler_sent_is_the_result() -> None:
    assert _handled('{"result": {"ok": true}}') == {"ok": True}


@pytest.mark.parametrize("text", ["", "no JSON", "{}", "[]", "1", '{"result": "cut o', '{"result": ' + "[" * 100_000])
def test_what_is_no_result_is_the_programs_failure_and_not_the_nodes(text: str) -> None:
    with pytest.raises(ProgramFailed, match="cannot be read"):
        _handled(text)
