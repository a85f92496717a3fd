"""How a container of a configuration is run: from an image, from a folder, or by somebody else at an address."""

import asyncio
import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from moorage.layers.python import python_runtime
from moorage.model.limits import Limits
from moorage.networks import http
from moorage.networks.base import Context, Endpoint, Services, ServiceSpec
from moorage.networks.infernet.calls import Calls, remote
from moorage.networks.infernet.config import Container
from moorage.networks.infernet.manifest import NETWORK, layer_of
from moorage.sandbox.base import Credentials, ImageSpec, ProcessSpec, ReadOnly

INSIDE = 3000
"""Port on which a container listens (section 1.1)."""
APP = "/app"
PIDS = 1024
PROBE = 2.0
"""Seconds that a container has to answer when it is asked whether it is ready."""


def service_of(
    container: Container,
    *,
    key: str,
    layers: Mapping[str, Path],
    host_port: int | None = None,
    credentials: Credentials | None = None,
) -> ServiceSpec:
    """Say how a container is started, and when it is ready: once it answers with any HTTP status (section 2.1)."""
    extras = container.moorage
    folder = extras.directory
    return ServiceSpec(
        key=key,
        process=_image(container, host_port, credentials) if folder is None else _process(container, folder, layers),
        port=INSIDE,
        isolation=None if folder is None else extras.isolation,
        ready=partial(_answers, path=extras.health_path),
        ready_within=extras.start_timeout,
    )


def app_service_of(container: Container, ctx: Context) -> ServiceSpec:
    """Say how a container of an app is started for its jobs: within what a job may use, and apart from what is served.

    Jobs share it if they are of the same files and ask for the same.
    """
    limits, isolation = ctx.job.spec.limits, ctx.job.spec.isolation
    asked = f"{ctx.job.app_digest} {limits} {isolation}"
    key = f"{NETWORK}:{container.id}@{hashlib.sha256(asked.encode()).hexdigest()[:32]}"
    if container.moorage.directory is not None:
        container = replace(container, moorage=replace(container.moorage, isolation=isolation))
    service = service_of(container, key=key, layers=ctx.layers)
    if isinstance(service.process, ImageSpec):
        name = f"moorage-{key.rpartition('@')[2]}"  # one that no served container can have
        return replace(service, process=replace(service.process, name=name, limits=limits))
    assert isinstance(service.process, ProcessSpec)
    return replace(service, process=replace(service.process, limits=limits))


def is_published(container: Container) -> bool:
    """Tell whether a container gets a port of this machine; the others have addresses or networks of their own."""
    return container.moorage.directory is None and container.moorage.network != "none"


def calls_of(
    container: Container,
    services: Services,
    service: ServiceSpec | None,
    url: str = "",
    slots: asyncio.Semaphore | None = None,
) -> Calls:
    """Make what asks a container, that of a service or that at an address; `slots` if it shares them with others."""
    extras = container.moorage
    return Calls(
        container.id,
        remote if service is None else partial(services.acquire, service),
        url=url if service is None else "",
        bearer=container.bearer if service is None else "",
        timeout=extras.timeout,
        stream_idle_timeout=extras.stream_idle_timeout,
        stream_timeout=extras.stream_timeout,
        slots=slots or asyncio.Semaphore(extras.concurrency),
        accept_error_status=extras.accept_error_status,
    )


def address_of(container: Container) -> str:
    """Give the address of a container that somebody else runs (section 2.1)."""
    if container.url:
        return container.url
    host = "host.docker.internal" if os.environ.get("RUNTIME") == "docker" else "localhost"
    return f"http://{host}:{container.port}"


async def _answers(endpoint: Endpoint, *, path: str) -> bool:
    client = http.Client(http.through(endpoint), host=f"localhost:{INSIDE}")
    try:
        async with asyncio.timeout(PROBE):
            with await client.request("GET", path) as answer:
                await answer.read()  # one that is cut off is an error in some containers' logs
                return True
    except OSError:
        return False
    finally:
        client.close()


def _image(container: Container, host_port: int | None, credentials: Credentials | None) -> ImageSpec:
    extras = container.moorage
    network = extras.network or "internet"
    return ImageSpec(
        image=container.image,
        name=container.id,
        command=container.command,
        env=container.env,
        volumes=container.volumes,
        gpu=container.gpu,
        port=INSIDE,
        host_port=host_port,
        limits=_limits(container),
        network=network,
        runtime=extras.isolation,
        credentials=credentials,
    )


def _process(container: Container, folder: Path, layers: Mapping[str, Path]) -> ProcessSpec:
    runtime = python_runtime(layers[layer_of(container)])
    return ProcessSpec(
        argv=container.command,
        cwd=APP,
        env={**runtime.env, **container.env},
        mounts=(ReadOnly(source=folder, target=APP), *runtime.mounts),
        limits=_limits(container),
        network=container.moorage.network or "none",
    )


def _limits(container: Container) -> Limits:
    """Give what a container may use; where nothing is said, most of the machine, but not all."""
    extras = container.moorage
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Limits(
        cpus=extras.cpus or float(os.cpu_count() or 1),
        memory=extras.memory or physical * 3 // 4,
        pids=extras.pids or PIDS,
    )
