"""The server of the Data Docs."""

from __future__ import annotations

from pathlib import Path

from infra.local.docs_server import DocsServer
from tests.support.raw_http import exchange


def test_the_pages_are_read_under_names_of_this_machine_alone(tmp_path: Path) -> None:
    pages = tmp_path / "models" / ".paddock" / "docs"
    pages.mkdir(parents=True)
    (pages / "index.html").write_text("the page")
    server = DocsServer.start(tmp_path / "state", tmp_path / "models")
    try:
        port = int(server.url.rpartition(":")[2])
        for host, status in (
            *((b"127.0.0.1:%d" % port, 200), (b"localhost", 200), (b"LOCALHOST:1", 200)),
            *((b"rebound.example", 403), (b"localhost.rebound.example", 403), (b"", 403)),
        ):
            answer = exchange(port, b"GET / HTTP/1.0\r\nHost: %b\r\n\r\n" % host)
            assert (b" %d " % status in answer.content.splitlines()[0], b"the page" in answer.content) == (
                True,
                status == 200,
            ), host
    finally:
        server.stop()
