"""Closing parts of the address space to a network namespace: routes that lead nowhere, set by netlink.

Runs in the spawner's children (launch.py); standard library only.
"""

import os
import socket
import struct
from collections.abc import Iterable

NLMSG_ERROR, RTM_NEWROUTE = 2, 24
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE = 1, 4, 0x400, 0x100
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNREACHABLE = 254, 4, 0, 7
RTA_DST = 1
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")


def close(networks: Iterable[tuple[bytes, int]]) -> None:
    """Make networks unreachable in the network namespace of this process, where no longer prefix says otherwise.

    A network is a packed IPv4 address and the length of its prefix. Only a process with power over the namespace can
    undo that. Raises OSError.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        for network in networks:
            kernel.send(_unreachable(*network))
            _check(kernel.recv(4096))


def _unreachable(address: bytes, length: int) -> bytes:
    route = _ROUTE.pack(
        socket.AF_INET, length, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNREACHABLE, 0
    )
    body = route + _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address), RTA_DST) + address
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return _HEADER.pack(_HEADER.size + len(body), RTM_NEWROUTE, flags, 0, 0) + body


def _check(answer: bytes) -> None:
    """Raise what the kernel refuses; its answer is an error in any case, of number 0 if all is well."""
    (number,) = _ERROR.unpack_from(answer, _HEADER.size)
    if number:
        raise OSError(-number, os.strerror(-number))
