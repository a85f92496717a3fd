"""Operations of owners on their programs (contract, section 4.5)."""

import asyncio
import math

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from moorage.errors import MoorageError
from moorage.networks.aleph.control.access import Gate, absent
from moorage.networks.aleph.facade.answers import Json, Refused
from moorage.networks.aleph.programs.deployments import Refusal
from moorage.networks.aleph.programs.instances import Instance
from moorage.networks.aleph.programs.registry import Registry
from moorage.networks.aleph.programs.volumes import Volumes
from moorage.networks.base import Services

LONGEST = 10 * 86400.0
"""Seconds after which a program may be told to expire, at most."""
NOT_STARTED = "500: Error during vm initialisation"


class Machines:
    """Stops, starts and erases programs for those who may."""

    def __init__(self, gate: Gate, registry: Registry, services: Services, volumes: Volumes) -> None:
        self._gate, self._registry, self._services, self._volumes = gate, registry, services, volumes
        self._expiring: dict[str, asyncio.TimerHandle] = {}

    def routes(self) -> list[Route]:
        """Give the routes."""
        base = "/control/machine/{ref}"
        return [
            Route(f"{base}/stop", self._stop, methods=["POST"]),
            Route(f"{base}/reboot", self._reboot, methods=["POST"]),
            Route(f"{base}/erase", self._erase, methods=["POST"]),
            Route(f"{base}/reinstall", self._reinstall, methods=["POST"]),
            Route(f"{base}/expire", self._expire, methods=["POST"]),
            Route(f"{base}/update", self._update, methods=["POST"]),
            Route("/control/{ref}/update", self._update, methods=["POST"]),  # where the SDK asks for it
        ]

    async def _stop(self, request: Request) -> Response:
        ref, instance = await self._entered(request)
        ran = await self._services.stop(instance.spec.key)
        return PlainTextResponse(f"Stopped VM with ref {ref}" if ran else "Already stopped, nothing to do")

    async def _reboot(self, request: Request) -> Response:
        ref, instance = await self._entered(request)
        ran = await self._services.stop(instance.spec.key)
        await self._start(instance)
        return PlainTextResponse(f"{'Rebooted VM' if ran else 'Starting VM (was not running)'} with ref {ref}")

    async def _erase(self, request: Request) -> Response:
        ref, instance = await self._entered(request)
        await self._erase_all(instance.deployment.origin)
        return PlainTextResponse(f"Erased VM with ref {ref}")

    async def _reinstall(self, request: Request) -> Response:
        ref, instance = await self._entered(request)
        if request.query_params.get("erase_volumes", "true").lower() == "true":
            await self._erase_all(instance.deployment.origin)
        await self._services.stop(instance.spec.key)
        await self._start(instance)
        return PlainTextResponse(f"Reinstalled VM with ref {ref}")

    async def _expire(self, request: Request) -> Response:
        seconds = _seconds(request.query_params.get("timeout"))
        ref, instance = await self._entered(request)
        if seconds:
            later = asyncio.get_running_loop().call_later(seconds, self._expired, instance.spec.key)
            self._expiring[instance.spec.key] = later
        else:
            self._services.retire(instance.spec.key)
        return PlainTextResponse(f"Expiring VM with ref {ref} in {seconds:g} seconds")

    async def _update(self, request: Request) -> Response:
        """Say that all is up to date, as it always is here; the SDK signs no such request."""
        return Json({})

    async def _entered(self, request: Request) -> tuple[str, Instance]:
        """Let an owner in; the operation takes the place of an expiry that was asked for before.

        Raises Refused, NotOwner.
        """
        ref = str(request.path_params["ref"])
        await self._gate.enter(request, ref)
        found = self._registry.find(ref)
        if isinstance(found, Refusal):
            raise absent(ref)
        if (earlier := self._expiring.pop(found.spec.key, None)) is not None:
            earlier.cancel()
        return ref, found

    async def _start(self, instance: Instance) -> None:
        try:
            if instance.deployment.program.on.persistent:
                self._services.keep(instance.spec)
            else:
                async with self._services.acquire(instance.spec):
                    pass
        except MoorageError as error:
            instance.log.say(error.message)
            raise Refused(500, NOT_STARTED) from None

    async def _erase_all(self, origin: str) -> None:
        """Stop all versions of a program, which share its volumes, and remove those.

        Requests may start one again while others end: the volumes go in the moment in which none runs.
        """
        await self._stop_all(origin)
        while any(self._runs(key) for key in self._keys(origin)):
            await self._stop_all(origin)
        await self._volumes.erase(origin)

    async def _stop_all(self, origin: str) -> None:
        await asyncio.gather(*map(self._services.stop, self._keys(origin)))

    def _keys(self, origin: str) -> list[str]:
        return [each.spec.key for each in self._registry.instances() if each.deployment.origin == origin]

    def _runs(self, key: str) -> bool:
        state = self._services.state(key)
        return state is not None and state.state in {"starting", "ready"}

    def _expired(self, key: str) -> None:
        self._expiring.pop(key, None)
        self._services.retire(key)


def _seconds(text: str | None) -> float:
    """Read how long a program may still run; 0 is until it has answered what was asked of it."""
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < LONGEST:
        raise Refused(400, "Invalid timeout duration")
    return seconds
