"""Another machine on a network with this one, played in a network namespace."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from random import randrange

PORT = 7007
MACHINE = f"""
import socket, threading
def datagrams():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("", {PORT}))
    while True:
        data, peer = server.recvfrom(100)
        server.sendto(data, peer)
threading.Thread(target=datagrams, daemon=True).start()
with socket.create_server(("", {PORT})) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
"""
PRIVATE = ("10.77", "172.31", "192.168", "100.64", "169.254", "198.18", "203.0.113")


@dataclass(frozen=True)
class Neighbour:
    """Another machine, which listens on PORT of all its addresses."""

    public: str
    private: tuple[str, ...]
    ours: str
    """The public address by which this machine is its neighbour."""


@contextlib.contextmanager
def a_neighbour() -> Iterator[Neighbour]:
    """Play another machine; only root can, with ip(8)."""
    cable, block = f"moor{os.getpid() % 10**8}", 4 * randrange(64)
    nets = ("203.0.114", *(net if net.count(".") == 2 else f"{net}.{randrange(256)}" for net in PRIVATE))
    command = ["unshare", "--net", sys.executable, "-c", MACHINE]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as machine:
        try:
            assert machine.stdout is not None
            assert machine.stdout.readline() == b"ready\n"
            inside = ("nsenter", "--net", "--target", str(machine.pid))
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid))
            for net in nets:
                ip("address", "add", f"{net}.{block + 1}/30", "dev", cable)
                ip("address", "add", f"{net}.{block + 2}/30", "dev", "eth0", within=inside)
            ip("link", "set", cable, "up")
            ip("link", "set", "eth0", "up", within=inside)
            public, *private = (f"{net}.{block + 2}" for net in nets)
            yield Neighbour(public=public, private=tuple(private), ours=f"{nets[0]}.{block + 1}")
        finally:
            subprocess.run(["ip", "link", "delete", cable], check=False, capture_output=True)
            machine.kill()


def ip(*words: str, within: tuple[str, ...] = ()) -> None:
    subprocess.run([*within, "ip", *words], check=True)
