"""Requests for the ranges of one source: where they go, with which headers, and what a refusal means.

Redirects are followed by hand, since the headers of an address (a token) belong to its own scheme, host and port. The
address that a redirect led to is kept for the next ranges: a signed address is made to be used again until it
expires, and then the source is asked anew.
"""

from __future__ import annotations

import threading
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from paddock.errors import TransferRefused, TransientError
from paddock.model.source import Address, Source
from paddock.transfer.answer import Body, TryAgain, open_body, sentence
from paddock.transfer.connections import Connections

_REDIRECTS = 5
_CONNECT_S = 10.0
_REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
_REFUSED_STATUS = frozenset({400, 401, 403, 404, 405, 410, 416})  # 400: how S3 refuses some expired signatures
_PORTS = {"http": 80, "https": 443}


class Client:
    """Requests for one source, from several threads.

    `stall_s` bounds the wait for an answer and for each of its bytes. `abort` ends every request that is under way,
    so that a thread that waits for the network stops at once; the client is of no more use then.
    """

    def __init__(self, source: Source, *, connections: int, stall_s: float) -> None:
        self._source = source
        self._size = source.expected.size
        self._stall_s = stall_s
        self._connections = Connections(connections)
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._settling = threading.Lock()
        self._settled = False
        self._address: Address | None = None
        self._generation = 0
        self._etags: dict[tuple[str, str, int], str] = {}

    def open(self, start: int, end: int, *, whole: bool = False) -> Body:
        """Ask for the bytes from `start` up to `end`, with one renewal of the address where it is refused.

        With `whole`, the body is asked for without a range and read from its start; what comes before `start` is
        passed over. Raises TryAgain; RangesIgnored where only `whole` gets anywhere; TransferRefused; and the
        permanent errors of the source.
        """
        if self._settled:
            return self._open(start, end, whole=whole)
        # The first answer settles where the bytes are: one redirect is asked for, and not one for each thread.
        with self._settling:
            return self._open(start, end, whole=whole)

    def _open(self, start: int, end: int, *, whole: bool) -> Body:
        address, generation = self._locate(refused=None)
        try:
            response, final = self._request(address, start, end, whole=whole)
            if response.status in _REFUSED_STATUS:
                response.close()
                address, generation = self._locate(refused=generation)
                response, final = self._request(address, start, end, whole=whole)
            try:
                if response.status in _REFUSED_STATUS:
                    raise self._refusal(response.status, start, end)
                body = open_body(response, start=start, end=end, size=self._size, whole=whole, stall_s=self._stall_s)
                self._check_etag(response, final)
            except BaseException:
                response.close()
                raise
        except TryAgain:
            # Where a redirect led may be what is broken: the next try asks the source again.
            self._settle(None, generation)
            raise
        self._settle(final, generation)
        return body

    def abort(self) -> None:
        self._connections.end()

    def close(self) -> None:
        """After `abort`, and after the threads that ask."""
        self._connections.close()

    def _settle(self, final: Address | None, generation: int) -> None:
        """Use the address that answered for the next ranges; with None, forget it. An older generation says nothing."""
        with self._lock:
            if generation == self._generation:
                self._address = final
                self._settled = final is not None

    def _locate(self, *, refused: int | None) -> tuple[Address, int]:
        """The address to use, and its generation. Where `refused` is still the current one, a new address."""
        with self._renewing:
            stale = refused is not None and refused == self._generation
            with self._lock:
                address, generation = self._address, self._generation
            if address is None or stale:
                try:
                    address = self._source.address(renew=stale)
                except TransientError as error:
                    raise TryAgain(error.message, retry_after_s=error.retry_after_s) from error
                with self._lock:
                    self._address, self._settled = address, False
                    self._generation = generation = generation + 1
            return address, generation

    def _request(
        self, address: Address, start: int, end: int, *, whole: bool
    ) -> tuple[urllib3.BaseHTTPResponse, Address]:
        """The first answer that is no redirect, and where it came from."""
        for _ in range(_REDIRECTS + 1):
            headers = {**address.headers, "Accept-Encoding": "identity"}
            if not whole:
                headers["Range"] = f"bytes={start}-{end - 1}"
            try:
                response = self._connections.pool(address.url).request(
                    "GET",
                    address.url,
                    headers=headers,
                    preload_content=False,
                    redirect=False,
                    retries=False,
                    timeout=urllib3.Timeout(connect=min(_CONNECT_S, self._stall_s), read=self._stall_s),
                )
            except (HTTPError, OSError, ValueError) as error:  # ValueError: an answer that is no HTTP
                # A server that has enough connections refuses the next one, or leaves it unanswered.
                refused = isinstance(error, (NewConnectionError, ConnectTimeoutError))
                raise TryAgain(sentence(error, self._stall_s), busy=refused) from None
            location = response.headers.get("Location")
            if response.status not in _REDIRECT_STATUS or not location:
                return response, address
            response.close()
            address = self._redirected(address, location)
        raise TransferRefused(
            f"{self._source.label} is redirected more than {_REDIRECTS} times",
            cure="look at what answers at its address",
        )

    def _redirected(self, address: Address, location: str) -> Address:
        try:
            target = urljoin(address.url, location)
            here, there = urlsplit(address.url), urlsplit(target)
            same = _origin(here) == _origin(there)
        except ValueError:
            raise TryAgain("the answer is a redirect to an address that does not parse") from None
        if there.scheme not in _PORTS or not there.hostname or (here.scheme == "https" and there.scheme == "http"):
            raise TransferRefused(
                f"{self._source.label} is redirected from {here.scheme} to {there.scheme[:20] or 'nowhere'}",
                cure="that is not followed: look at what answers at its address",
            )
        return Address(target, address.headers if same else {})

    def _refusal(self, status: int, start: int, end: int) -> TransferRefused:
        label = self._source.label
        if status == 416:
            return TransferRefused(
                f"{label} has no bytes {start} to {end - 1} at its source, expected {self._size} bytes",
                cure="its size there has changed: resolve the revision again",
            )
        if status in {404, 410}:
            return TransferRefused(
                f"{label} is gone from its source (status {status})", cure="resolve the revision again"
            )
        return TransferRefused(
            f"the bytes of {label} are refused (status {status}), with a new address too",
            cure="check the token or the access key, and the terms of the repository",
        )

    def _check_etag(self, response: urllib3.BaseHTTPResponse, address: Address) -> None:
        """Ranges of two versions make a file that never was. Weak tags say too little to tell (RFC 9110, 8.8.1)."""
        etag = response.headers.get("ETag", "")
        if not etag.startswith('"'):
            return
        with self._lock:
            first = self._etags.setdefault(_origin(urlsplit(address.url)), etag)
        if first != etag:
            raise TryAgain("the file changed at its source while it was fetched: its ETag is another one")


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)
