"""Ids that apps are given (contract, section 2.2)."""

import re
from collections.abc import Callable

import pytest

from moorage.networks.golem.identities import is_safe_id, new_subtask_id, new_task_id, opaque_node_id

UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.mark.parametrize("make", [new_task_id, new_subtask_id])
def test_ids_are_new_lower_case_uuids(make: Callable[[], str]) -> None:
    ids = {make() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(UUID, each) and is_safe_id(each) for each in ids)


def test_a_slot_has_one_id_of_its_own_for_ever() -> None:
    assert opaque_node_id("node-1", 0) == "9e83c1d2847d34cd891a1bdf2da9d579f0b4f68f79cf05eb76a24af3bfc914b0"
    assert len({opaque_node_id("node-1", slot) for slot in range(20)}) == 20


@pytest.mark.parametrize("text", ["a", "A0_-", "0" * 128])
def test_plain_ids_are_safe(text: str) -> None:
    assert is_safe_id(text)


@pytest.mark.parametrize("text", ["", "_a", "-a", ".", "..", "a/b", "a.b", "a\n", "a\0", "é", "٣", "0" * 129])
def test_ids_that_would_lead_elsewhere_are_not(text: str) -> None:
    assert not is_safe_id(text)
