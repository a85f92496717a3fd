"""Runs that are made again, to see whether the same comes of them (contract, section 2.5, `reproducible`)."""

from dataclasses import dataclass, replace

from moorage.blobs.base import Blobs
from moorage.errors import InputUnavailable, Invalid, NotFound, ProgramUnavailable
from moorage.model.ids import new_id
from moorage.model.jobs import JSON
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.ledger.records import Run
from moorage.networks.aleph.programs.calls import Call, recorded
from moorage.networks.aleph.programs.deployments import Deployment, Refusal
from moorage.networks.aleph.programs.instances import Instance
from moorage.networks.aleph.programs.jobs import delivery
from moorage.networks.aleph.programs.registry import Registry
from moorage.networks.aleph.programs.runs import Runs
from moorage.networks.aleph.programs.volumes import Volumes
from moorage.networks.base import Services

TRIGGER = "replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Aspect:
    """What two runs are compared by, as each of them has it."""

    name: str
    recorded: JSON
    again: JSON

    @property
    def equal(self) -> bool:
        """Whether they agree."""
        return bool(self.recorded == self.again)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A run, and the same made again."""

    recorded: Run
    again: Run

    @property
    def aspects(self) -> tuple[Aspect, ...]:
        """Give what is compared: the status, the digest of the body, the hash of the export."""
        return tuple(
            Aspect(name=name, recorded=recorded, again=again)
            for (name, recorded), (_, again) in zip(_facts(self.recorded), _facts(self.again), strict=True)
        )

    @property
    def document(self) -> dict[str, JSON]:
        """Give it as JSON."""
        aspects = self.aspects
        return {
            "run_id": self.recorded.run_id,
            "again": self.again.run_id,
            "item_hash": self.recorded.item_hash,
            "equal": all(each.equal for each in aspects),
            "compared": [
                {"name": each.name, "recorded": each.recorded, "again": each.again, "equal": each.equal}
                for each in aspects
            ],
        }


class Replays:
    """Makes runs again: in an instance of their own, with what the references led to then.

    Persistent volumes begin as those of a new program and are removed afterwards: what the program's own held at the
    time of the run is not known. The guest API is the program's, with its cache, and what it publishes is published.
    """

    def __init__(
        self, ledger: Ledger, blobs: Blobs, *, registry: Registry, runs: Runs, services: Services, volumes: Volumes
    ) -> None:
        self._ledger, self._blobs, self._registry, self._runs = ledger, blobs, registry, runs
        self._services, self._volumes = services, volumes

    async def replay(self, run_id: str) -> Replay:
        """Make a run again.

        Raises NotFound, Invalid for one that is not over, ProgramUnavailable, InputUnavailable if what it was asked
        is not here any more, and what keeps the program from starting or answering.
        """
        run = self._ledger.run(run_id)
        if run is None:
            raise NotFound(f"There is no run {run_id}.", hint="Responses name theirs in the header Aleph-Run-Id.")
        if run.ended is None or run.request is None:
            raise Invalid(f"Run {run_id} has not ended, or was written down only in part.")
        again = new_id("run")
        request = self._request(run, again)
        log = self._registry.log_of(self._registry.original(run.item_hash))
        instance = self._registry.apart(self._deployment(run, again), log)
        try:
            await recorded(self._runs, self._services, instance, request, trigger=TRIGGER, write=lambda _: None)
        finally:
            await self._end(instance)
        made = self._ledger.run(again)
        assert made is not None
        return Replay(recorded=run, again=made)

    def _deployment(self, run: Run, again: str) -> Deployment:
        found = self._registry.past(run.item_hash, run.refs)
        if isinstance(found, Refusal):
            raise ProgramUnavailable(f"{found.error}.")
        return replace(found, origin=again)

    def _request(self, run: Run, again: str) -> Call:
        asked = run.request
        call = Call(run=again, address=asked["address"])
        if asked["message"] is not None:
            return delivery(replace(call, message=asked["message"]), self._message(asked["message"]))
        return replace(
            call,
            kind=asked["kind"],
            method=asked["method"],
            path=asked["path"],
            headers=tuple((name, value) for name, value in asked["headers"]),
            body=self._body(run),
        )

    def _message(self, item_hash: str) -> JSON:
        record = self._ledger.record(item_hash)
        if record is None or record.content is None:
            raise InputUnavailable(f"The message {item_hash} of that run is forgotten.")
        return record.shown

    def _body(self, run: Run) -> bytes:
        body = run.request["body"]
        if not body["kept"]:
            raise InputUnavailable(f"The body of run {run.run_id} was too long to be kept: {body['size']} bytes.")
        return self._blobs.path(body["digest"]).read_bytes() if body["size"] else b""

    async def _end(self, instance: Instance) -> None:
        await self._services.stop(instance.spec.key)
        self._services.retire(instance.spec.key)
        await self._volumes.erase(instance.deployment.origin)


def _facts(run: Run) -> list[tuple[str, JSON]]:
    return [
        ("status", run.status),
        ("body", run.response and run.response["digest"]),
        ("export", run.export and run.export["file_hash"]),
    ]
