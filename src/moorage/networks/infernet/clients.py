"""Who asks, and who is let in without a token (contract, sections 4.7 and 6.2)."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from moorage.networks.infernet import policy
from moorage.networks.infernet.asgi import Request
from moorage.networks.infernet.policy import Client, Network

_OF_BROWSERS = frozenset({b"origin", b"sec-fetch-site"})


class Clients:
    """Tells clients apart by the other end of the connection, or by whom a trusted proxy names."""

    def __init__(self, trusted_proxies: Sequence[Network]) -> None:
        self._trusted_proxies = trusted_proxies

    def of(self, request: Request) -> Client | None:
        """Tell who asks: the other end of the connection, or whom a trusted proxy names."""
        if not request.scope["client"]:
            return None
        try:
            client = policy.client(request.scope["client"][0])
            if not self._trusted_proxies:
                return client
            forwarded = request.header(b"x-forwarded-for")
            hops = [hop.strip() for hop in forwarded.split(",")] if forwarded.strip() else []
            while hops and any(client in proxy for proxy in self._trusted_proxies):
                client = policy.client(hops.pop())
        except ValueError:
            return None
        return client

    def admits(self, scope: Mapping[str, Any]) -> bool:
        """Let clients in as the network's own node does; a page of a browser is no such client."""
        client, host = scope.get("client"), b""
        for name, value in scope["headers"]:
            if name in _OF_BROWSERS:
                return False
            if name == b"host":
                host = value
        return client is not None and (_names_loopback(host) or not self._is_on_this_machine(client[0], scope))

    def _is_on_this_machine(self, address: str, scope: Mapping[str, Any]) -> bool:
        """Tell whether it may be a browser of this machine that asks, on behalf of a page that calls us by its name."""
        try:
            client = policy.client(address)
        except ValueError:
            return True
        here = client.is_loopback or address == (scope.get("server") or ("",))[0]
        return here and not any(client in proxy for proxy in self._trusted_proxies)


@lru_cache(maxsize=256)
def _names_loopback(host: bytes) -> bool:
    try:
        name = urlsplit(f"//{host.decode('latin-1')}").hostname or ""
        return name == "localhost" or policy.client(name).is_loopback
    except ValueError:
        return False
