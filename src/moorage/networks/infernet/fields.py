"""The kinds of values in a `config.json` (contract, section 3.1), each with the reason why another is refused."""

import re
import shlex
from collections.abc import Mapping
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationInfo

from moorage.networks.manifest import Count, Size

CURVE_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Private keys of Ethereum lie below it."""


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic reports a ValueError with its place
    return value


def _null_if_blank(value: Any) -> Any:
    return None if value == "" else value


def _text(pattern: str, reason: str) -> AfterValidator:
    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(reason)
        return value

    return AfterValidator(check)


def _hex(value: str, *, size: int) -> str:
    digits = value.lower().removeprefix("0x")
    if re.fullmatch(f"[0-9a-f]{{{2 * size}}}", digits) is None:
        raise ValueError(f"must be {size} bytes in hex: 0x and {2 * size} digits")
    return f"0x{digits}"


def _private_key(value: str) -> str:
    key = _hex(value, size=32)
    if not 0 < int(key, 16) < CURVE_ORDER:
        raise ValueError("is no valid private key")
    return key


def _source(value: Any) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(value if isinstance(value, str) else "", strict=False)
    except ValueError:
        raise ValueError("must be an IP address or a range such as 10.0.0.0/8") from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return IPv4Network((mapped, network.prefixlen - 96))


def _words(value: Any) -> list[str]:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("must be a string as a shell would take it")
    return shlex.split(value)


def _environment(value: Any) -> dict[str, str]:
    """Render values as the peer's container client does: Python's `str`, and nothing at all for null."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004 - pydantic reports a ValueError with its place
    rendered = {name: str(item) for name, item in value.items() if item is not None}
    if any(not name or "=" in name or "\0" in name + text for name, text in rendered.items()):
        raise ValueError("a name is empty or holds `=`, or a name or value holds a NUL character")
    return rendered


def _folder(value: Path, info: ValidationInfo) -> Path:
    assert info.context is not None
    folder: Path = info.context["base"] / value
    try:
        found = folder.is_dir()
    except OSError:  # a name that is too long, a folder that is not ours to look into
        found = False
    if not found:
        raise ValueError("must be a folder; a relative path counts from where the file is")
    return folder.absolute()


def _base(url: str) -> str:
    """Take an address that paths are appended to."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        sound = parts.port != 0 and (host or not url)
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("must have the name or address of a host, and a port from 1 to 65535 if any")
    return url.rstrip("/")


NUMBER = BeforeValidator(_no_switch)
BLANK = BeforeValidator(_null_if_blank)
_BASE = AfterValidator(_base)

Whole = Annotated[int, Field(ge=0), NUMBER]
Positive = Annotated[Count, NUMBER]
Pause = Annotated[float, Field(ge=0, allow_inf_nan=False), NUMBER]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER]
Bytes = Annotated[Size, Field(lt=2**63), NUMBER]
Port = Annotated[int, Field(ge=1, le=65535), NUMBER]
Address = Annotated[str, AfterValidator(partial(_hex, size=20))]
"""An Ethereum address, `0x` and small letters whatever the file has."""
PrivateKey = Annotated[str, AfterValidator(_private_key)]
Source = Annotated[IPv4Network | IPv6Network, PlainValidator(_source)]
"""A range of client addresses; IPv4 in IPv6 is IPv4."""
ContainerId = Annotated[str, _text(r"[^,\s\x00-\x1f\x7f]+", "must have at least one character, and no comma or blank")]
Url = Annotated[
    str,
    _text(r"(https?://[^/\s?#@]+(/[^\s?#]*)?)?", "must be http:// or https://, a host and at most a path"),
    _BASE,
]
RpcUrl = Annotated[str, _text(r"(https?|wss?)://[^/\s]\S*", "must start with http(s):// or ws(s):// and a host")]
Bearer = Annotated[str, _text(r"[!-~]*", "must be visible ASCII characters without blanks")]
HealthPath = Annotated[str, _text(r"/[!-~]*", "must start with `/` and have no blank")]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
"""A command as a shell would take it."""
Variables = Annotated[Mapping[str, str], BeforeValidator(_environment)]
Folder = Annotated[Path, AfterValidator(_folder)]
"""One that is there; a relative path counts from where the file is."""
