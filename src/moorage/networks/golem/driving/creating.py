"""A task before its clock runs: its directories, its requestor, CreateTask (contract, section 2.2, steps 3 to 6)."""

import asyncio
import json
import math
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from moorage.errors import EnvUnknown, InputUnavailable, PrerequisitesDenied
from moorage.model.jobs import FileRef
from moorage.model.limits import MIB
from moorage.networks.base import Context
from moorage.networks.golem import prerequisites
from moorage.networks.golem.config import Settings
from moorage.networks.golem.environments import Environment, resolve
from moorage.networks.golem.files.trees import TaskTree
from moorage.networks.golem.host import Host, RequestorGone, RequestorLost
from moorage.networks.golem.identities import new_task_id
from moorage.networks.golem.manifest import Facts, facts_of
from moorage.networks.golem.protocol.client import CallFailed, Created, Requestor
from moorage.networks.golem.records.model import Task
from moorage.networks.golem.records.records import Records

CREATIONS = 2
"""Ids under which a task is given to its app at most: another one only if it is not known what became of the first."""


class CreationFailed(Exception):
    """The app, or this node, does not take the task; says why."""


async def create(
    ctx: Context, task: Task, *, records: Records, tree: TaskTree, host: Host, settings: Settings, memory: int
) -> Task:
    """Give a task to its app, exactly once under each id; it waits then.

    Raises CreationFailed, and what the start of the requestor raises.
    """
    golem = task.file["golem"]
    while True:
        if task.creation == "sent":  # nobody knows what became of it
            if task.creations >= CREATIONS:
                raise CreationFailed("CreateTask: the app went away twice while it created the task")
            task = await records.created_anew(task.id, new_task_id())
        await asyncio.to_thread(tree.make_task, task.task_id, _resources(ctx))
        task = await records.creating(task.id)
        try:
            created = await host.call(partial(_create, task), within=golem["task_timeout"], long=True)
        except CallFailed as error:
            raise CreationFailed(f"CreateTask: {error.text or error.status.name}") from error
        except RequestorLost:
            task = replace(task, creation="sent")
            continue
        except RequestorGone as error:
            raise CreationFailed(f"CreateTask: {error}") from error
        _check(ctx, created, settings, memory)
        return await records.created(
            task.id,
            env_id=created.env_id,
            prerequisites=created.prerequisites,
            min_memory=_bytes(created.min_memory_mib),
        )


def _create(task: Task, app: Requestor, timeout: float) -> Coroutine[None, None, Created]:
    most = task.file["golem"]["max_subtasks"]
    return app.create_task(task.task_id, max_subtasks=most, parameters=task.parameters, timeout=timeout)


def _check(ctx: Context, created: Created, settings: Settings, memory: int) -> None:
    """See whether this node can give what the app wants for its providers. Raises CreationFailed."""
    wanted = _bytes(created.min_memory_mib)
    if wanted > memory:
        raise CreationFailed(
            f"The app wants {wanted // MIB} MiB of memory for a subtask; this node gives at most {memory // MIB} MiB."
        )
    provider_of(ctx, created.env_id, created.prerequisites, settings)


def _bytes(mib: float) -> int:
    return max(0, math.ceil(mib * MIB)) if math.isfinite(mib) else 0


def provider_of(ctx: Context, env_id: str, source: str, settings: Settings) -> Environment:
    """Find what starts the providers of a task. Raises CreationFailed."""
    app_id = ctx.app.manifest["app_id"]
    try:
        return environment_of(facts_of(ctx.app.manifest), env_id, source, layers=ctx.layers, settings=settings)
    except EnvUnknown as error:
        text = f"Error connecting to app, environment not enabled. env={env_id}, app={app_id}"
        raise CreationFailed(f"{text}. {error.message}") from error
    except PrerequisitesDenied as error:
        text = f"Cannot install prerequisites for running app. env={env_id}, app={app_id}"
        raise CreationFailed(f"{text}. {error.message}") from error


def requestor_of(ctx: Context, settings: Settings) -> Environment:
    """Find what starts the requestor of a task. Raises CreationFailed."""
    found = facts_of(ctx.app.manifest).descriptor
    return provider_of(ctx, found.requestor_env, json.dumps(found.requestor_prereq), settings)


def environment_of(
    facts: Facts, env_id: str, source: str, *, layers: Mapping[str, Path], settings: Settings
) -> Environment:
    """Find what an environment and its prerequisites stand for. Raises EnvUnknown, PrerequisitesDenied."""
    return resolve(prerequisites.parse(env_id, source), app=facts, layers=layers, settings=settings)


def _resources(ctx: Context) -> dict[str, Path]:
    """Give the task's resources: their paths below `task_inputs`, and the stored bytes.

    Raises InputUnavailable.
    """
    return {file.path: _stored(ctx, file) for file in ctx.inputs}


def _stored(ctx: Context, file: FileRef) -> Path:
    path = ctx.blobs.path(file.digest)
    if not path.is_file():
        raise InputUnavailable(f"Resource {file.path} is not in the store any more.")
    return path
