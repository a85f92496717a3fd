"""Ids that apps are given; they use them as names of files without a look (contract, section 2.2)."""

import re
from hashlib import sha3_256
from uuid import uuid4


def new_task_id() -> str:
    """Make the id by which an app knows a task: a lower-case UUID."""
    return str(uuid4())


def new_subtask_id() -> str:
    """Make the id of a subtask: a lower-case UUID."""
    return str(uuid4())


def opaque_node_id(node: str, slot: int) -> str:
    """Give 64 hexadecimal digits that stand for a slot of a node for ever.

    They hide `node` only if that cannot be guessed.
    """
    return sha3_256(f"{node}/{slot}".encode()).hexdigest()


def is_safe_id(text: str) -> bool:
    """Tell whether an id may be sent to an app."""
    return re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]{0,127}", text) is not None
