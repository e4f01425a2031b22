"""Stands for a service process where the local cluster itself is under test.

Ready on its port at once, drains on SIGTERM in a moment, dies at once if FAKE_FAILS is set.
"""

import http.server
import os
import signal
import sys
from pathlib import Path
from types import FrameType

SERVICES = ("registry", "dispatcher", "policy", "agent")


def install(folder: Path) -> Path:
    """Make packages in `folder` that are found before the real services and run this file."""
    for service in SERVICES:
        package = folder / f"maniple_{service}"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(Path(__file__).read_text())
    return folder


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ready")


def drain(_number: int, _frame: FrameType | None) -> None:
    sys.stderr.write("drained\n")
    sys.exit(0)


if __name__ == "__main__":
    if os.environ.get("FAKE_FAILS"):
        sys.exit("no such handler: shop.orders")
    signal.signal(signal.SIGTERM, drain)
    sys.stderr.write(f"{os.environ['MANIPLE_INSTANCE']} serves\n")
    address = (os.environ["MANIPLE_HTTP_HOST"], int(os.environ["MANIPLE_HTTP_PORT"]))
    http.server.HTTPServer(address, Ready).serve_forever()
