"""Serves a home folder's HTML pages (reports, audits, quarantines) on loopback, for the links in the Dagster UI.

Pages only: tables, weights and settings stay where they are. `rluf ui` runs it beside the UI at the profile's
`pages_url`; where that names another host, the lake is served by whatever stands there, and nothing is started.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from rluf_assets.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SERVED = ("lake", "reports")


@contextmanager
def serve_pages(home: Path, pages_url: str) -> Iterator[str | None]:
    """Serve `lake/**/*.html` and `reports/*.html` of a home folder at `pages_url` while the context is open.

    Gives the address, or None where `pages_url` is not on this machine. Raises ConfigError where its port is taken.
    """
    place = urlsplit(pages_url)
    if place.hostname not in LOOPBACK or place.port is None:
        yield None
        return
    try:
        server = ThreadingHTTPServer((place.hostname, place.port), partial(_Pages, directory=str(home.resolve())))
    except OSError as error:
        raise ConfigError(
            f"pages_url {pages_url}: cannot listen there ({error.strerror}). End what uses the port, or set another "
            "pages_url in rluf.yaml; the pages of new materialisations are then linked there."
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield pages_url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Pages(SimpleHTTPRequestHandler):
    """Hands out HTML files beneath `lake/` and `reports/` of its folder, and nothing else."""

    def do_GET(self) -> None:
        """Serve one page, or answer 404."""
        if self._is_page():
            super().do_GET()
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "no such page")

    def do_HEAD(self) -> None:
        """As GET, without the page."""
        if self._is_page():
            super().do_HEAD()
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "no such page")

    def _is_page(self) -> bool:
        # A page on the web that has its own name point to loopback is no reader of ours.
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in LOOPBACK:
            return False
        # The folder is resolved, so a link in it that leads out of it is refused as well.
        root, path = Path(self.directory), Path(self.translate_path(self.path)).resolve()
        return path.suffix == ".html" and any(path.is_relative_to(root / folder) for folder in SERVED)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the terminal is the UI's."""
