"""States of tasks and subtasks, their words for users, and which may follow which (contract, section 2.9)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from moorage.errors import IllegalTransition
from moorage.model.states import may_follow


class TaskStatus(StrEnum):
    """Life of a task; states without any that may follow or precede are those of other kinds of tasks."""

    CREATING = "creating"
    """Accepted; its app has not answered CreateTask yet."""
    ERROR_CREATING = "errorCreating"
    TESTING = "testing"
    ERROR_TESTING = "errorTesting"
    NOT_STARTED = "notStarted"
    CREATING_DEPOSIT = "creatingDeposit"
    SENDING = "sending"
    WAITING = "waiting"
    """Its clock runs; no subtask has been handed out."""
    STARTING = "starting"
    COMPUTING = "computing"
    FINISHED = "finished"
    ABORTED = "aborted"
    TIMEOUT = "timeout"
    RESTARTED = "restarted"

    @property
    def shown(self) -> str:
        """The word for users."""
        return _TASK_WORDS[self]

    @property
    def active(self) -> bool:
        """Tell whether it can be aborted, and its subtasks restarted."""
        return self in _ACTIVE_TASK

    @property
    def completed(self) -> bool:
        """Tell whether it has come to its end."""
        return self in _COMPLETED


class SubtaskStatus(StrEnum):
    """Life of one attempt at a piece of work."""

    STARTING = "starting"
    """Assigned to a slot, and computed there."""
    DOWNLOADING = "downloading"
    """Computed; its result is fetched."""
    VERIFYING = "verifying"
    """Its result is in place; the app's verdict is asked, or waits for other subtasks."""
    RESENT = "resent"
    """Lost with the place where it was; never the app's fault."""
    FINISHED = "finished"
    FAILURE = "failure"
    RESTARTED = "restarted"
    """Discarded: its part is computed anew."""
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def shown(self) -> str:
        """The word for users."""
        return _SUBTASK_WORDS[self]

    @property
    def active(self) -> bool:
        """Tell whether its task waits for it."""
        return self in _ACTIVE_SUBTASK

    @property
    def terminal(self) -> bool:
        """Tell whether only a discard can still change it."""
        return not self.active


_T, _S = TaskStatus, SubtaskStatus

_ACTIVE_TASK = frozenset({_T.SENDING, _T.WAITING, _T.STARTING, _T.COMPUTING})
_COMPLETED = frozenset({_T.FINISHED, _T.ABORTED, _T.TIMEOUT, _T.RESTARTED, _T.ERROR_CREATING})
_ACTIVE_SUBTASK = frozenset({_S.STARTING, _S.DOWNLOADING, _S.VERIFYING})

_TASK_WORDS: Mapping[TaskStatus, str] = {
    _T.CREATING: "Creating",
    _T.ERROR_CREATING: "Error creating",
    _T.TESTING: "Testing",
    _T.ERROR_TESTING: "Error testing",
    _T.NOT_STARTED: "Not started",
    _T.CREATING_DEPOSIT: "Creating the deposit",
    _T.SENDING: "Sending",
    _T.WAITING: "Waiting",
    _T.STARTING: "Starting",
    _T.COMPUTING: "Computing",
    _T.FINISHED: "Finished",
    _T.ABORTED: "Aborted",
    _T.TIMEOUT: "Timeout",
    _T.RESTARTED: "Restart",
}

_SUBTASK_WORDS: Mapping[SubtaskStatus, str] = {
    _S.STARTING: "Starting",
    _S.DOWNLOADING: "Downloading",
    _S.VERIFYING: "Verifying",
    _S.RESENT: "Failed - Resent",
    _S.FINISHED: "Finished",
    _S.FAILURE: "Failure",
    _S.RESTARTED: "Restart",
    _S.CANCELLED: "Cancelled",
    _S.TIMEOUT: "Timeout",
}

_TASK_ENDS = frozenset({_T.FINISHED, _T.ABORTED, _T.TIMEOUT})

TASK_TRANSITIONS: Mapping[TaskStatus, frozenset[TaskStatus]] = {
    **dict.fromkeys(_T, frozenset[TaskStatus]()),
    _T.CREATING: frozenset({_T.WAITING, _T.ERROR_CREATING, _T.ABORTED}),
    _T.WAITING: _TASK_ENDS | {_T.COMPUTING},
    _T.COMPUTING: _TASK_ENDS,
}

_SUBTASK_ENDS = frozenset({_S.FAILURE, _S.TIMEOUT, _S.CANCELLED, _S.RESTARTED})

SUBTASK_TRANSITIONS: Mapping[SubtaskStatus, frozenset[SubtaskStatus]] = {
    **dict.fromkeys(_S, frozenset[SubtaskStatus]()),
    _S.STARTING: _SUBTASK_ENDS | {_S.DOWNLOADING, _S.RESENT},
    _S.DOWNLOADING: _SUBTASK_ENDS | {_S.VERIFYING, _S.RESENT},
    # verifying → timeout: the task's own deadline; that of a subtask does not run here.
    _S.VERIFYING: _SUBTASK_ENDS | {_S.FINISHED},
    _S.FINISHED: frozenset({_S.RESTARTED}),
    _S.FAILURE: frozenset({_S.RESTARTED}),
}

S = TypeVar("S", TaskStatus, SubtaskStatus)


def check_transition(old: S, new: S) -> None:
    """Check that `new` may follow `old`. Raises IllegalTransition."""
    if isinstance(old, TaskStatus):
        noun, allowed = "task", may_follow(TASK_TRANSITIONS, old, new)
    else:
        noun, allowed = "subtask", may_follow(SUBTASK_TRANSITIONS, old, new)
    if not allowed:
        raise IllegalTransition(f"The {noun} is {old}; it cannot become {new}.", old=old.value, new=new.value)
