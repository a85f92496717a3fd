"""What anybody may know of the node, and owners of the runs of their programs (contract, section 4.6)."""

import asyncio
import os
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moorage import __version__
from moorage.model.callers import Caller
from moorage.model.jobs import JSON
from moorage.networks.aleph.control.access import Gate
from moorage.networks.aleph.facade.answers import Json, Refused, iso
from moorage.networks.aleph.ledger.lookups import Lookups
from moorage.networks.aleph.ledger.records import Run
from moorage.networks.aleph.programs.instances import Instance
from moorage.networks.aleph.programs.registry import Registry
from moorage.networks.base import Services, ServiceState

ADDRESSES = {"ipv4": "", "ipv6": ""}
"""Programs have no address of their own: they are reached through the node."""
NETWORKS = {**ADDRESSES, "ipv4_network": "", "host_ipv4": "", "ipv6_network": "", "ipv6_ip": ""}


class About:
    """Tells what runs, what there is to run on, and what was run."""

    def __init__(self, gate: Gate, registry: Registry, services: Services, lookups: Lookups, directory: Path) -> None:
        self._gate, self._registry, self._services, self._lookups = gate, registry, services, lookups
        self._directory = directory

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/about/executions/list", self._running),
            Route("/v2/about/executions/list", self._executions),
            Route("/about/usage/system", self._usage),
            Route("/about/runs/{run}", self._run),
            Route("/status/config", _config),
        ]

    async def _running(self, request: Request) -> Response:
        return Json(
            {
                instance.deployment.item_hash: {"networking": ADDRESSES, **_kind(instance)}
                for instance, state in self._states()
                if state.state == "ready"
            }
        )

    async def _executions(self, request: Request) -> Response:
        return Json({instance.deployment.item_hash: _execution(instance, state) for instance, state in self._states()})

    async def _usage(self, request: Request) -> Response:
        return Json(await asyncio.to_thread(_usage, self._directory))

    async def _run(self, request: Request) -> Response:
        run_id = str(request.path_params["run"])
        run = self._lookups.run(run_id)
        if run is None:
            raise Refused(404, f"No run {run_id}")
        if not _is_local(request):
            await self._gate.enter(request, run.item_hash)
        return Json(_shown(run))

    def _states(self) -> list[tuple[Instance, ServiceState]]:
        """List what was started, what runs last: several of one version may be there while their files change."""
        found = [
            (instance, state)
            for instance in self._registry.instances()
            if (state := self._services.state(instance.spec.key)) is not None
        ]
        return sorted(found, key=lambda each: each[1].state == "ready")


def _is_local(request: Request) -> bool:
    """Tell whether it is the operator who asks, and not a page of anywhere in the operator's browser."""
    caller = request.scope.get("moorage.caller")
    return isinstance(caller, Caller) and caller.operator and "origin" not in request.headers


def _kind(instance: Instance) -> dict[str, JSON]:
    persistent = instance.deployment.program.on.persistent
    return {"vm_type": "persistent_program" if persistent else "microvm", "awaiting_confidential_init": False}


def _execution(instance: Instance, state: ServiceState) -> dict[str, Any]:
    moments = dict.fromkeys(("defined_at", "preparing_at", "prepared_at", "starting_at", "stopping_at", "stopped_at"))
    started = None if state.started_at is None else iso(state.started_at)
    return {
        "networking": {**NETWORKS, "mapped_ports": _ports(instance)},
        "status": {**moments, "started_at": started},
        "running": state.state == "ready",
        **_kind(instance),
    }


def _ports(instance: Instance) -> dict[str, JSON]:
    return {
        str(port): {"host": each.host, "tcp": "tcp" in each.protocols, "udp": "udp" in each.protocols}
        for port, each in instance.ports.items()
    }


def _usage(directory: Path) -> dict[str, Any]:
    memory, disk, load = psutil.virtual_memory(), shutil.disk_usage(directory), os.getloadavg()
    clock = psutil.cpu_freq()
    now = datetime.now(UTC)
    return {
        "cpu": {
            "count": os.cpu_count(),
            "load_average": {"load1": load[0], "load5": load[1], "load15": load[2]},
            "core_frequencies": {"min": clock.min if clock else 0.0, "max": clock.max if clock else 0.0},
        },
        "mem": {"total_kB": memory.total // 1024, "available_kB": memory.available // 1024},
        "disk": {"total_kB": disk.total // 1024, "available_kB": disk.free // 1024},
        "period": {"start_timestamp": now.replace(second=0, microsecond=0).isoformat(), "duration_seconds": 60},
        "properties": {"cpu": {"architecture": platform.machine(), "vendor": "", "features": []}},
        "gpu": {"devices": [], "available_devices": []},
        "active": True,
    }


async def _config(request: Request) -> Response:
    return Json(
        {
            "DOMAIN_NAME": request.url.hostname,
            "version": __version__,
            "payment": {"PAYMENT_RECEIVER_ADDRESS": None},
            "computing": {
                "ENABLE_QEMU_SUPPORT": False,
                "ENABLE_CONFIDENTIAL_COMPUTING": False,
                "ENABLE_GPU_SUPPORT": False,
            },
        }
    )


def _shown(run: Run) -> dict[str, JSON]:
    return {
        "run_id": run.run_id,
        "item_hash": run.item_hash,
        "trigger": run.trigger,
        "started": iso(run.started),
        "ended": None if run.ended is None else iso(run.ended),
        "status": run.status,
        "refs": dict(run.refs),
        "export": run.export,
    }
