"""A network of its own for a process, with a way to other machines and none to this one.

slirp4netns, a process outside, makes the connections that the process asks for: what listens on this machine's loopback
or on an abstract Unix socket is out of reach. It runs as the user that the process will be, so that the kernel may kill
it when that process ends, and keeps nothing of the machine but /etc, /run and sockets.

Networks that the process must not reach are closed by routes (routes.py). A socket may be bound to the interface and so
be sent past them, but gets nowhere: slirp4netns takes what comes to its own link address, and tells that for its own
network only. Of that it answers as the gateway, and as a name server on port 53. It takes no IPv6.

Runs in the spawner's children (launch.py); standard library only.
"""

import os
import select
import signal
import stat
from collections.abc import Sequence
from typing import NoReturn

from moorage.sandbox import routes, staging

NAME_SERVER = "10.0.2.3"
"""Where slirp4netns answers for the machine's own name server."""
TUN_PLACE = "/dev/net"
TUN = f"{TUN_PLACE}/tun"
TUN_DEVICE = (10, 200)
READY = 10_000
"""Milliseconds that slirp4netns may take to make its interface; it takes about 30."""
OPTIONS = ("--configure", "--mtu=65520", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp")


def connect(program: str, user: int | None, closed: Sequence[tuple[bytes, int]]) -> None:
    """Move this process into a network of its own, connected until it ends, also after it became another program.

    It must be root, or in a user namespace of its own. `user` is who it will be (None: who it is), `closed` names the
    networks (routes.py) that it will not reach.
    Raises OSError: with what slirp4netns said, if that gave up.
    """
    owner, network = staging.network_namespace(user)
    (ready, tell_ready), (words, say) = os.pipe(), os.pipe()
    parent = os.getpid()
    if os.fork() == 0:
        _execute(program, user, parent, owner=owner, network=network, ready=tell_ready, say=say)
    os.close(tell_ready)
    os.close(say)
    _await_ready(ready, words)
    staging.join(network, staging.CLONE_NEWNET)
    routes.close(closed)


def _await_ready(ready: int, words: int) -> None:
    waiting = select.poll()
    waiting.register(ready, select.POLLIN)
    if not waiting.poll(READY):
        raise TimeoutError(f"slirp4netns is not ready after {READY // 1000} seconds")
    if not os.read(ready, 1):
        raise ConnectionError(os.read(words, 4096).decode(errors="replace").strip() or "slirp4netns gave no reason")


def _execute(
    program: str, user: int | None, parent: int, *, owner: int, network: int, ready: int, say: int
) -> NoReturn:
    try:
        if user is not None:
            _allow_tun()
            os.setgroups([])
        staging.join(owner, staging.CLONE_NEWUSER)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)  # the root of that namespace: outside it is `user`
        staging.die_with(parent)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # nobody reads what it says once it is ready
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number, stream in enumerate((nothing, nothing, say)):
            os.dup2(stream, number)
        os.set_inheritable(network, True)
        os.set_inheritable(ready, True)
        place = (f"--ready-fd={ready}", "--netns-type=path", f"/proc/self/fd/{network}", "tap0")
        os.execve(program, ["slirp4netns", *OPTIONS, *place], {})  # noqa: S606
    except OSError as error:
        os.write(say, str(error).encode())
    finally:
        os._exit(1)


def _allow_tun() -> None:
    """Let another user than root have the device, which is open to all on most machines: for this process only."""
    if os.stat(TUN).st_mode & 0o006 == 0o006:  # noqa: PTH116 - launch.py says why not pathlib
        return
    staging.enter_namespace(own_user=False)
    staging.mount("tmpfs", TUN_PLACE, "tmpfs", staging.MS_NOSUID, "mode=0755")
    os.umask(0)
    os.mknod(TUN, stat.S_IFCHR | 0o666, os.makedev(*TUN_DEVICE))
