"""What a node that serves goes by: flags, its own file, and an Infernet node's `config.json`."""

from dataclasses import dataclass
from logging import Handler
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from moorage.errors import BadManifest
from moorage.networks.infernet.config import Log, read
from moorage.networks.infernet.manifest import NETWORK
from moorage.node.config import NodeConfig, load_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that was said; `log` takes the node's log in a file, if one was asked for."""

    node: NodeConfig
    log: Handler | None = None


def settings(config: Path | None, infernet: Path | None, **flags: Any) -> Settings:
    """Read the files, and put what they say in its order: flags, `config`, `infernet`, the defaults.

    Raises SourceNotFound, BadManifest with one line for each bad key.
    """
    node = load_config(config, **flags)
    path = infernet or _named(config, node)
    if path is None:
        return Settings(node=node)
    found = read(path)
    listen = {"host": found.server.host, "port": found.server.port}
    update = {key: value for key, value in listen.items() if key not in node.model_fields_set}
    table = {**node.networks.get(NETWORK, {}), "config": str(path.absolute())}
    node = node.model_copy(update={**update, "networks": {**node.networks, NETWORK: table}})
    return Settings(node=node, log=None if found.log is None else _log_file(path, found.log))


def _named(config: Path | None, node: NodeConfig) -> Path | None:
    """Give the `config.json` that the node's own file names."""
    table = node.networks.get(NETWORK)
    if table is None:
        return None
    path = table.get("config")
    if not path or not isinstance(path, str):
        raise BadManifest(f"{config}: `networks.{NETWORK}.config` must be the path of a config.json.")
    return Path(path)


def _log_file(path: Path, log: Log) -> Handler:
    file = path.parent / log.path
    try:
        return RotatingFileHandler(
            file, maxBytes=log.max_file_size, backupCount=log.backup_count, encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:
        raise BadManifest(f"{path}: `log.path`: {file} cannot be written: {error.strerror}.") from None
