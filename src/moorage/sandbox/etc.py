"""The little /etc that processes see in a sandbox; it holds nothing that tells about the machine."""

import shutil
from pathlib import Path

from moorage.sandbox.base import HOME, HOSTNAME, ROOT_HOME
from moorage.sandbox.internet import NAME_SERVER

COPIED = ("ld.so.cache", "localtime", "ssl/openssl.cnf")


def make_etc(directory: Path) -> None:
    """Make it, for processes whose host has the usual name."""
    files = {
        "passwd": (
            f"root:x:0:0:root:{ROOT_HOME}:/bin/sh\n"
            f"app:x:1000:1000:app:{HOME}:/bin/sh\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
        ),
        "group": "root:x:0:\napp:x:1000:\nnogroup:x:65534:\n",
        "hosts": hosts(HOSTNAME),
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "resolv.conf": f"nameserver {NAME_SERVER}\n",
    }
    (directory / "ssl" / "certs").mkdir(parents=True)
    (directory / "pki").mkdir()
    for name, text in files.items():
        (directory / name).write_text(text)
    for name in COPIED:
        if Path("/etc", name).is_file():
            shutil.copyfile(Path("/etc", name), directory / name)
    if Path("/etc/alternatives").is_dir():
        shutil.copytree("/etc/alternatives", directory / "alternatives", symlinks=True)


def hosts(hostname: str) -> str:
    """Give the text of /etc/hosts for a host of this name."""
    return f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n"
