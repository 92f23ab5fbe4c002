"""The pages beside the UI: HTML of the lake and the reports, nothing else, and to nobody but this machine."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

import pytest

from resources.pages import serve_pages
from rluf_assets.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    for name in ("lake/p_love/_/0/report.html", "reports/index.html", "dagster/secret.html", "rluf.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"<p>{name}</p>")
    (folder / "lake" / "p_love" / "_" / "0" / "holdout_scores.parquet").write_bytes(b"PAR1")
    (tmp_path / "outside.html").write_text("outside")
    (folder / "lake" / "leads_out.html").symlink_to(tmp_path / "outside.html")
    return folder


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def get(port: int, path: str, host: str = "127.0.0.1", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_pages_are_served_and_nothing_else(home: Path) -> None:
    port = free_port()
    with serve_pages(home, f"http://127.0.0.1:{port}"):
        assert get(port, "/lake/p_love/_/0/report.html") == (200, "<p>lake/p_love/_/0/report.html</p>")
        assert get(port, "/reports/index.html")[0] == 200
        assert get(port, "/reports/index.html", method="HEAD") == (200, "")
        for path in (
            "/", "/lake/", "/rluf.yaml", "/dagster/secret.html", "/lake/p_love/_/0/holdout_scores.parquet",
            "/lake/../dagster/secret.html", "/lake/%2e%2e/dagster/secret.html", "/lake/leads_out.html",
            "/lake/absent.html",
        ):  # fmt: skip
            assert get(port, path)[0] == 404, path
        assert get(port, "/reports/index.html", host="evil.example")[0] == 404
    with pytest.raises(ConnectionRefusedError):
        get(port, "/reports/index.html")


def test_a_taken_port_is_named_and_another_host_left_alone(home: Path) -> None:
    port = free_port()
    refused = pytest.raises(ConfigError, match=rf"pages_url http://127.0.0.1:{port}: cannot listen")
    with serve_pages(home, f"http://127.0.0.1:{port}"), refused, serve_pages(home, f"http://127.0.0.1:{port}"):
        pass
    with serve_pages(home, "https://reports.example/rluf") as address:
        assert address is None
