"""Serve a directory of web pages on the loopback address: `python -m infra.local.docs_pages PORT DIRECTORY`.

It is Python's own server, which answers whatever host a request names; here a host must be of this machine. So a page
whose host name is made to lead to this machine cannot read the directory.
"""

from __future__ import annotations

import re
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import BinaryIO, Final

from infra.local.ports import LOOPBACK

_OWN_HOST: Final = re.compile(rf"({re.escape(LOOPBACK)}|localhost)(:[0-9]{{1,5}})?", re.IGNORECASE)


class _Pages(SimpleHTTPRequestHandler):
    def send_head(self) -> BytesIO | BinaryIO | None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not _OWN_HOST.fullmatch(hosts[0]):
            self.send_error(HTTPStatus.FORBIDDEN, "The host of this address is not this machine's")
            return None
        return super().send_head()


def main() -> None:
    port, directory = int(sys.argv[1]), sys.argv[2]
    with ThreadingHTTPServer((LOOPBACK, port), partial(_Pages, directory=directory)) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
