"""Identifiers: sortable by the time they were made, and prefixed by what they name."""

import re

from uuid_utils import uuid7

JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a job id chosen by a client looks like; ids are opaque and never become a part of a path."""


def new_id(prefix: str) -> str:
    """Make an id such as `job_0192f7c1a3b47c0e8f51c2d3e4f50617` (UUIDv7)."""
    return f"{prefix}_{uuid7().hex}"
