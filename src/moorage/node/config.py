"""What an operator can set: command-line flags, or the same names in a TOML file."""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

import platformdirs
import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moorage.errors import BadManifest, SourceNotFound


def default_data_dir() -> Path:
    """Give `$MOORAGE_DATA_DIR`, else the platform's directory for user data."""
    return Path(os.environ.get("MOORAGE_DATA_DIR") or platformdirs.user_data_dir("moorage")).absolute()


class NodeConfig(BaseModel):
    """Settings of one node; every key may stand in the file given with `--config`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Field(default_factory=default_data_dir, description="Where everything durable is kept.")
    host: str = Field("127.0.0.1", description="Address to listen on; anything but loopback needs a token.")
    port: int = Field(4000, ge=0, le=65535, description="TCP port; 0 lets the kernel choose.")
    cpus: float = Field(
        default_factory=lambda: float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 1.0,
        gt=0,
        description="Cpus that jobs may reserve in all; by default all of this machine's.",
    )
    memory: int = Field(
        default_factory=lambda: psutil.virtual_memory().total * 4 // 5,
        gt=0,
        description="Bytes of memory that jobs may reserve in all; by default four fifths of this machine's.",
    )
    isolation: str = Field("bubblewrap", description="Sandbox of jobs that name none: `bubblewrap` or `host`.")
    warm_interpreters: int = Field(
        4,
        ge=0,
        description="Python environments for which an interpreter is kept waiting, once two jobs within a minute used "
        "them; each takes some 7 MiB. 0 starts Python anew for every job.",
    )
    max_timeout: float = Field(86_400.0, gt=0, description="Longest execution timeout, in seconds, a job may have.")
    hidden_accepts_jobs: bool = Field(False, description="Whether HIDDEN apps still take new jobs.")
    networks: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="One table per network, such as `[networks.infrax]`, in its own words."
    )


def load_config(path: Path | None, **flags: Any) -> NodeConfig:
    """Read a TOML file, if any, and let flags that are not None overrule it.

    Raises SourceNotFound, BadManifest naming the file, the key and the nearest known key.
    """
    values = {**(_read(path) if path else {}), **{key: value for key, value in flags.items() if value is not None}}
    try:
        return NodeConfig(**values)
    except ValidationError as error:
        raise BadManifest("; ".join(_explain(path, item) for item in error.errors())) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise SourceNotFound(f"There is no configuration file {path}.", hint="Check --config.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadManifest(f"{path} is not valid TOML: {error}") from None


def _explain(path: Path | None, item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    where = f"{path}: " if path else ""
    if item["type"] != "extra_forbidden":
        return f"{where}`{key}`: {item['msg']}"
    near = difflib.get_close_matches(key, NodeConfig.model_fields, n=1, cutoff=0.4)
    return f"{where}unknown key `{key}`" + (f"; did you mean `{near[0]}`?" if near else "")
