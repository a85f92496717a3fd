"""What programs require of the node they run on (contract, section 2.5, `requirements`)."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic_core import SchemaError, SchemaValidator
from pydantic_core.core_schema import str_schema

from moorage.networks.aleph.config import Registration
from moorage.networks.aleph.messages.program import CpuRequirements, NodeRequirements, Requirements

CPUINFO = Path("/proc/cpuinfo")
ARCHITECTURES = {"aarch64": "arm64", "amd64": "x86_64"}
"""What the network calls a processor that the kernel calls otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The processor of this machine."""

    architecture: str
    vendor: str
    """Such as `AuthenticAMD`; empty where the machine does not tell."""
    features: frozenset[str]


@cache
def this_cpu() -> Cpu:
    """Look at this machine's processor."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    machine = platform.machine().lower()
    return Cpu(
        architecture=ARCHITECTURES.get(machine, machine),
        vendor=facts.get("vendor_id", ""),
        features=frozenset(facts.get("flags", facts.get("Features", "")).split()),
    )


def unmet(required: Requirements | None, *, cpu: Cpu, node: Registration) -> str | None:
    """Name the first requirement that this node does not satisfy, by its path; None if it satisfies all."""
    if required is None:
        return None
    found = [f"cpu.{name}" for name in _cpu(required.cpu or CpuRequirements(), cpu)]
    found += [f"node.{name}" for name in _node(required.node or NodeRequirements(), node)]
    found += ["gpu"] if required.gpu else []  # programs are given none
    return found[0] if found else None


def _cpu(required: CpuRequirements, cpu: Cpu) -> Iterator[str]:
    if required.architecture not in (None, cpu.architecture):
        yield "architecture"
    if required.vendor is not None and required.vendor.lower() != cpu.vendor.lower():
        yield "vendor"
    if not cpu.features.issuperset(required.features):
        yield "features"


def _node(required: NodeRequirements, node: Registration) -> Iterator[str]:
    if required.owner is not None and required.owner.lower() != (node.owner or "").lower():
        yield "owner"
    if required.address_regex is not None and not _matches(required.address_regex, node.address):
        yield "address_regex"
    if required.node_hash not in (None, node.node_hash):
        yield "node_hash"
    if required.terms_and_conditions not in (None, node.terms_and_conditions):
        yield "terms_and_conditions"


def _matches(pattern: str, text: str | None) -> bool:
    """Look for a stranger's pattern, in a time that grows with the text only: Python's own might take for ever."""
    try:
        validator = SchemaValidator(str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError:
        return False
    return validator.isinstance_python(text)
