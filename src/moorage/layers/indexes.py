"""The package index settings of the operator: all that a build learns of the node's environment."""

from collections.abc import Mapping
from pathlib import Path

from moorage.sandbox.base import ReadOnly

_PASSED = frozenset(
    {
        *("UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_INSECURE_HOST", "UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES"),
        *("UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    }
)
_OF_PIP = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_EXTRA_INDEX_URL"}
_SHOWN_ANYWAY = ("/usr", "/etc/ssl/certs", "/etc/pki")
_CONFIG = "/run/uv.toml"


def index_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Pick the variables that tell uv where and how to reach package indexes; pip's own stand in for them.

    An index URL with a password in it reaches the build, and whatever code of a package runs there.
    """
    passed = {key: value for key, value in environ.items() if key in _PASSED or key.startswith("UV_INDEX")}
    for name, of_uv in _OF_PIP.items():
        if environ.get(name) and of_uv not in passed and "UV_INDEX_URL" not in passed:
            passed[of_uv] = environ[name]
    # Without a file of the operator, none: an app's own uv.toml or pyproject.toml would be taken for settings.
    return passed | ({"UV_CONFIG_FILE": _CONFIG} if _config_file(environ) else {"UV_NO_CONFIG": "1"})


def index_mounts(environ: Mapping[str, str]) -> tuple[ReadOnly, ...]:
    """Give the files that those settings refer to: the operator's uv.toml and certificates."""
    mounts = []
    if config := _config_file(environ):
        mounts.append(ReadOnly(source=config, target=_CONFIG))
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = Path(environ.get(name) or "/usr")
        if path.exists() and not any(path.is_relative_to(shown) for shown in _SHOWN_ANYWAY):
            mounts.append(ReadOnly(source=path.resolve(), target=str(path)))
    return tuple(mounts)


def _config_file(environ: Mapping[str, str]) -> Path | None:
    home = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '/nonexistent')}/.config"
    places = (environ.get("UV_CONFIG_FILE"), f"{home}/uv/uv.toml", "/etc/uv/uv.toml")
    return next((Path(place) for place in places if place and Path(place).is_file()), None)
