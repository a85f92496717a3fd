"""The programs of this node: what each address serves now, as messages come (contract, sections 2.3 and 2.11)."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from moorage.networks.aleph.config import Settings
from moorage.networks.aleph.ledger.ledger import Ledger
from moorage.networks.aleph.messages.program import Program
from moorage.networks.aleph.programs.deployments import Deployment, Refusal, Resolver
from moorage.networks.aleph.programs.instances import Instance, make_instance, service_key
from moorage.networks.aleph.programs.launching import Launcher
from moorage.networks.aleph.programs.logs import ProgramLog
from moorage.networks.base import Services


class Registry:
    """Instances by what they run, and addresses by what they serve."""

    def __init__(
        self,
        root: Path,
        *,
        ledger: Ledger,
        resolver: Resolver,
        launcher: Launcher,
        services: Services,
        settings: Settings,
    ) -> None:
        self._ledger, self._resolver, self._launcher = ledger, resolver, launcher
        self._services, self._settings = services, settings
        self._logs_at = root / "logs"
        self._logs_at.mkdir(exist_ok=True)
        self._addresses: dict[str, Instance | Refusal] = {}
        self._instances: dict[str, Instance] = {}
        self._kept: set[str] = set()
        self._count: Counter[str] = Counter()
        """Instances that were made of each deployment."""
        self._logs: dict[str, ProgramLog] = {}

    def find(self, address: str) -> Instance | Refusal:
        """Give what an address, which may come from a stranger, serves now."""
        found = self._addresses.get(address)
        if found is None:
            served = self._resolver.deployment(address)
            if isinstance(served, Refusal):
                return served
            found = self._addresses[address] = self._instance(served)
        return found

    def newest(self, item_hash: str) -> str:
        """Give the version of a program that its triggers are for now, by the hash of any of its versions."""
        return self._resolver.newest(item_hash) or item_hash

    def original(self, item_hash: str) -> str:
        """Name the program that a version is of."""
        return self._resolver.original(item_hash)

    def past(self, item_hash: str, refs: Mapping[str, str]) -> Deployment | Refusal:
        """Find a version of a program with what its references once led to."""
        return self._resolver.version(item_hash, refs)

    def apart(self, deployment: Deployment, log: ProgramLog) -> Instance:
        """Make an instance that no address serves; whoever asked for it sees to its end."""
        return self._made(deployment, log)

    def log_of(self, origin: str) -> ProgramLog:
        """Give the log of a program and of its versions."""
        if origin not in self._logs:
            self._logs[origin] = ProgramLog(self._logs_at / f"{origin}.jsonl")
        return self._logs[origin]

    def instances(self) -> tuple[Instance, ...]:
        """List what was needed since the node started."""
        return tuple(self._instances.values())

    def current(self) -> Iterator[tuple[str, Program]]:
        """List the programs that have triggers, each by the version that those are for now."""
        for item_hash in self._ledger.triggered():
            loaded = self._ledger.program(item_hash)
            if loaded is not None and self._is_current(item_hash):
                yield item_hash, loaded.program

    def refresh(self) -> None:
        """Take note that messages have changed what addresses serve; what nothing serves any more is let go."""
        self._addresses.clear()
        for instance in self.instances():
            if self._stale(instance.deployment) or self._outdated(instance.deployment):
                del self._instances[instance.deployment.key]
                self._kept.discard(instance.deployment.key)
                self._services.retire(instance.spec.key)

    def keep_persistent(self) -> None:
        """Have persistent programs run (contract, section 2.5)."""
        for item_hash, program in self.current():
            found = self.find(item_hash) if program.on.persistent else None
            # One that its owner has stopped stays so until it is called, or has another version.
            if isinstance(found, Instance) and found.deployment.key not in self._kept:
                self._kept.add(found.deployment.key)
                self._services.keep(found.spec)

    def _stale(self, deployment: Deployment) -> bool:
        served = self._resolver.deployment(deployment.item_hash)
        return isinstance(served, Refusal) or served.key != deployment.key

    def _outdated(self, deployment: Deployment) -> bool:
        """Tell whether a version is kept running, and is no longer the newest: its own address starts it if need be."""
        return deployment.key in self._kept and not self._is_current(deployment.item_hash)

    def _is_current(self, item_hash: str) -> bool:
        """Tell whether a version is the one that its program's triggers are for: of several, the newest."""
        return self.newest(item_hash) == item_hash

    def _instance(self, deployment: Deployment) -> Instance:
        found = self._instances.get(deployment.key)
        if found is None:
            found = self._instances[deployment.key] = self._made(deployment, self.log_of(deployment.origin))
        return found

    def _made(self, deployment: Deployment, log: ProgramLog) -> Instance:
        """Make an instance; an earlier one of the same may still be ending, and is another service."""
        self._count[deployment.key] += 1
        number = self._count[deployment.key]
        key = service_key(deployment) if number == 1 else f"{service_key(deployment)}-{number}"
        return make_instance(
            deployment, log, key=key, launcher=self._launcher, services=self._services, settings=self._settings
        )
