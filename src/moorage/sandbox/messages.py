"""Messages with descriptors between the node, the spawner and its children; standard library only."""

import socket
import struct

LONGEST = 64 << 10
"""Bytes of a message."""
DESCRIPTORS = 64
"""That come with a message at most: a start brings the request, three streams and mounts (see spawner.py)."""
_INT = struct.Struct("i")
_ROOM = socket.CMSG_LEN(DESCRIPTORS * _INT.size)
WAIT, NOW = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
"""Whether to wait for a message; as plain numbers, which are quicker than enumerations."""


def receive(peer: socket.socket, flags: int = WAIT) -> tuple[bytes, list[int]]:
    """Take one message; nothing when the peer is gone.

    Unlike socket.recv_fds this lets no child inherit the descriptors that come with it.
    """
    try:
        message, extra, _, _ = peer.recvmsg(LONGEST, _ROOM, flags)
    except ConnectionError:
        return b"", []
    return message, [number for _, _, data in extra for (number,) in _INT.iter_unpack(data)]
