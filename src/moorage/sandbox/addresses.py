"""Which IPv4 addresses are no part of the public internet; over IPv6 sandboxes reach nothing."""

import socket
from collections.abc import Iterator
from ipaddress import IPv4Network

import psutil

RESERVED = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
"""What the IANA's registry of special-purpose addresses calls not global, without loopback, and multicast."""


def not_public() -> Iterator[IPv4Network]:
    """Give the networks that are reserved, and each address that this machine has now."""
    yield from RESERVED
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family == socket.AF_INET and not each.address.startswith("127."):
                yield IPv4Network(each.address)
