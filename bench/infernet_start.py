"""How long a node takes until all its containers are ready, with 1, 9, 18 and 27 of them.

The first few start while the node still does, so what each of 27 adds is compared with what each of 18 does.

Run alone: `python -m bench.infernet_start`.
"""

import json
import tempfile
import time
from pathlib import Path

from bench.common import server
from bench.infernet import await_healthy
from moorage.node.directory import DataDirectory

APP = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("0.0.0.0", 3000), Handler).serve_forever()
"""


def _seconds(folder: Path, containers: int) -> float:
    """Give the quickest of three starts until a node is healthy, after one that makes the containers' environments."""
    config = folder / f"config-{containers}.json"
    listed = [
        {"id": f"c{number}", "command": "python app.py", "moorage": {"directory": "app"}}
        for number in range(containers)
    ]
    config.write_text(json.dumps({"containers": listed}))
    taken = []
    for _ in range(4):
        begun = time.monotonic()
        with server(cpus=2, data_dir=folder / "data", infernet=config):
            presence = DataDirectory(folder / "data").presence()
            assert presence is not None
            assert presence.url is not None
            await_healthy(presence.url)
            taken.append(time.monotonic() - begun)
    return min(taken[1:])


def main() -> None:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="moorage-bench-") as temporary:
        folder = Path(temporary)
        (folder / "app").mkdir()
        (folder / "app" / "app.py").write_text(APP)
        times = {number: _seconds(folder, number) for number in (1, 9, 18, 27)}
    few, many = (times[18] - times[1]) / 17, (times[27] - times[1]) / 26
    shown = ", ".join(f"{number}: {seconds:.2f} s" for number, seconds in times.items())
    print(
        f"infernet start: {shown}; each of 18 containers adds {few * 1e3:.0f} ms, each of 27 {many * 1e3:.0f} ms: "
        f"ratio {many / few:.2f} (linear, at most 1.5: {'ok' if many <= 1.5 * few else 'MISSED'})"
    )


if __name__ == "__main__":
    main()
