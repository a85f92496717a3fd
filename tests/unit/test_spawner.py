"""The helper process that starts processes ends when its node does, whatever it was about."""

import subprocess
import sys

GONE = """
import socket
from moorage.sandbox.spawner import Spawner
node, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
spawner = Spawner(ours, None)
{before}
spawner.serve()
print("ended")
"""


def ends(before: str) -> bool:
    script = GONE.format(before=before)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    return (result.stdout, result.stderr) == ("ended\n", "")


def test_it_ends_when_the_node_hangs_up() -> None:
    assert ends("node.close()")


def test_it_ends_when_the_node_hangs_up_before_it_has_heard_everything() -> None:
    assert ends("node.close(); spawner._tell(1, 'ready')")


def test_it_ends_when_it_is_told_to() -> None:
    assert ends("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")


def test_it_takes_a_waiting_process_with_it() -> None:
    order = '{"order": "prepare", "number": 1, "cgroups": [], "spare": true, "interpreter": null}'
    assert ends(f"node.send({order.encode()!r}); spawner._step(None); spawner._step(None); node.close()")
