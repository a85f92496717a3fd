"""Messages with descriptors between the node, the spawner and its children; standard library only."""

import socket
import struct

LONGEST = 64 << 10
"""Bytes of a message."""
DESCRIPTORS = 4
"""That come with a start: the request (JSON, see launch.py), stdin, stdout, stderr."""
_INT = struct.Struct("i")


def receive(peer: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """Take one message; nothing when the peer is gone.

    Unlike socket.recv_fds this lets no child inherit the descriptors that come with it.
    """
    room = socket.CMSG_LEN(DESCRIPTORS * _INT.size)
    try:
        message, extra, _, _ = peer.recvmsg(LONGEST, room, flags | socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return b"", []
    return message, [number for _, _, data in extra for (number,) in _INT.iter_unpack(data)]
