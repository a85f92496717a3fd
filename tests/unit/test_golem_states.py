"""States of tasks and subtasks (contract, section 2.9)."""

from itertools import product
from typing import Any

import pytest

from moorage.errors import IllegalTransition
from moorage.networks.golem.states import SubtaskStatus, TaskStatus, check_transition

TASK_WORDS = {
    "creating": "Creating",
    "errorCreating": "Error creating",
    "testing": "Testing",
    "errorTesting": "Error testing",
    "notStarted": "Not started",
    "creatingDeposit": "Creating the deposit",
    "sending": "Sending",
    "waiting": "Waiting",
    "starting": "Starting",
    "computing": "Computing",
    "finished": "Finished",
    "aborted": "Aborted",
    "timeout": "Timeout",
    "restarted": "Restart",
}
SUBTASK_WORDS = {
    "starting": "Starting",
    "downloading": "Downloading",
    "verifying": "Verifying",
    "resent": "Failed - Resent",
    "finished": "Finished",
    "failure": "Failure",
    "restarted": "Restart",
    "cancelled": "Cancelled",
    "timeout": "Timeout",
}
TASK_STEPS = {
    "creating": "waiting errorCreating aborted",
    "waiting": "computing finished aborted timeout",
    "computing": "finished aborted timeout",
}
SUBTASK_STEPS = {
    "starting": "downloading timeout resent failure cancelled restarted",
    "downloading": "verifying timeout resent failure cancelled restarted",
    "verifying": "finished failure cancelled timeout restarted",
    "finished": "restarted",
    "failure": "restarted",
}


def test_states_have_the_names_and_words_of_the_contract() -> None:
    assert {status.value: status.shown for status in TaskStatus} == TASK_WORDS
    assert {status.value: status.shown for status in SubtaskStatus} == SUBTASK_WORDS


def test_states_know_whether_anything_is_to_be_done() -> None:
    assert {status for status in TaskStatus if status.active} == {"sending", "waiting", "starting", "computing"}
    assert {status for status in TaskStatus if status.completed} == {
        "finished", "aborted", "timeout", "restarted", "errorCreating",
    }  # fmt: skip
    assert {status for status in SubtaskStatus if status.active} == {"starting", "downloading", "verifying"}
    assert all(status.terminal is not status.active for status in SubtaskStatus)


@pytest.mark.parametrize(
    ("noun", "steps", "old", "new"),
    [
        *(("task", TASK_STEPS, *pair) for pair in product(TaskStatus, repeat=2)),
        *(("subtask", SUBTASK_STEPS, *pair) for pair in product(SubtaskStatus, repeat=2)),
    ],
)
def test_a_state_follows_another_only_if_the_tables_say_so(
    noun: str, steps: dict[str, str], old: Any, new: Any
) -> None:
    if new in steps.get(old, "").split():
        check_transition(old, new)
    else:
        with pytest.raises(IllegalTransition, match=f"^The {noun} is {old}; it cannot become {new}.$"):
            check_transition(old, new)
