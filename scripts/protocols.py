"""Generate the messages of Golem's protocol anew: `python scripts/protocols.py [TARGET]`.

TARGET is a directory for them; by default they replace those of the package, and the copies of apps.
"""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PROTOCOL = ROOT / "src/moorage/networks/golem/protocol"
APPS = [ROOT / name for name in ("examples/golem/mandelbrot", "tests/golem_apps/parts")]
NAMES = ("task_api", "health")


def generate(target: Path, *, services: bool) -> None:
    """Write the messages of both files, and with `services` what a server is made of, into a directory."""
    include = files("grpc_tools") / "_proto"
    kinds = [f"--python_out={target}", f"--pyi_out={target}"]
    if services:
        kinds = [f"--python_out={target}", f"--grpc_python_out={target}"]
    sources = [f"{name}.proto" for name in NAMES]
    status = protoc.main(["protoc", f"--proto_path={PROTOCOL}", f"--proto_path={include}", *kinds, *sources])
    if status:
        raise SystemExit(f"protoc ended with status {status}.")


if __name__ == "__main__":
    if sys.argv[1:]:
        generate(Path(sys.argv[1]), services=False)
    else:
        generate(PROTOCOL, services=False)
        for app in APPS:
            generate(app, services=True)
