"""A node that runs as an ordinary user isolates as well: the same suites once more, as somebody without rights."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

USER = 61_234
CHECKOUT = Path(__file__).parents[2]
SUITES = (
    "tests/contract/test_sandbox.py",
    "tests/contract/test_sandbox_programs.py",
    "tests/contract/test_probe.py",
    "tests/contract/test_warm.py",
    "tests/security/test_build_network.py",
    "tests/security/test_internet.py",
    "tests/security/test_node_death.py",
    "tests/security/test_sandbox_escape.py",
    "tests/security/test_sandbox_root.py",
)
SCENE = """
set -e
user=$1 checkout=$2 packages=$3 prefix=$4 work=$5 suite=$6
mount -t tmpfs -o mode=0755 tmpfs /mnt
mkdir /mnt/checkout /mnt/packages /mnt/python /mnt/work
mount --bind "$checkout" /mnt/checkout
mount --bind "$packages" /mnt/packages
mount --bind "$prefix" /mnt/python
mount --bind "$work" /mnt/work
if [ -c /dev/net/tun ]; then
    mount -t tmpfs -o mode=0755 tmpfs /dev/net
    mknod -m 0666 /dev/net/tun c 10 200
fi
as_user() { setpriv --reuid "$user" --regid "$user" --clear-groups -- "$@"; }
if ! as_user test -x "$prefix/bin"; then
    top=/$(echo "$prefix" | cut -d / -f 2)
    mount -t tmpfs -o mode=0755 tmpfs "$top"
    mkdir -p "$prefix"
    mount --bind /mnt/python "$prefix"
fi
cd /mnt/checkout
as_user env -i PATH=/usr/bin:/bin HOME=/mnt/work PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/mnt/checkout/src:/mnt/checkout:/mnt/packages \
    "$prefix/bin/python3" -m pytest -q -rs -p no:cacheprovider --basetemp=/mnt/work/tests "$suite"
"""
"""In mounts of its own, so that the user can reach a checkout and a Python below somebody else's home directory, and
the tun device, which is open to all on most machines."""


@pytest.mark.parametrize("suite", SUITES)
def test_the_suite_passes_as_an_ordinary_user(suite: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("this already is an ordinary user")
    if missing := [name for name in ("unshare", "setpriv", "mount") if shutil.which(name) is None]:
        pytest.skip(f"cannot become an ordinary user without {', '.join(missing)} (apt install util-linux mount)")
    os.chown(tmp_path, USER, USER)
    arguments = (USER, CHECKOUT, sysconfig.get_path("purelib"), sys.base_prefix, tmp_path, suite)
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCENE, "sh", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    print(result.stdout[-3000:])
    assert (result.returncode, result.stderr) == (0, "")
    assert " passed" in result.stdout
