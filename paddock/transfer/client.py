"""Send range requests for one source: follow redirects, attach headers, renew expired URLs, and map refusals.

Redirects are followed here and not by urllib3, since the headers of an address (a token) belong to its own scheme, host
and port. The URL that a redirect led to is kept for the next ranges: a signed URL may be used until it expires, and
then the source is asked for a new one.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProxyError

from paddock.errors import BadSetting, TransferInterrupted, TransferRefused, TransientError
from paddock.model.source import Address, Source
from paddock.network import FORBIDDEN_CURE, ForbiddenAddress, HttpProxy, is_untrusted
from paddock.transfer.connections import AbortablePools
from paddock.transfer.response import ResponseBody, RetryableResponseError, describe_error, open_body

_MAX_REDIRECTS = 5
_CONNECT_S = 10.0
_REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
_REFUSED_STATUS = frozenset({400, 401, 403, 404, 405, 410, 416, 501})  # 400: how S3 refuses some expired signatures
_PORTS = {"http": 80, "https": 443}
_PROXY_AUTHENTICATION_REQUIRED = 407


class RangeClient:
    """Range requests for one source, from several threads.

    `stall_s` limits the wait for a response and for each of its bytes. `abort` ends every request in flight, so that
    threads that wait for the network stop at once; the client cannot be used after that.
    """

    def __init__(self, source: Source, *, connections: int, stall_s: float) -> None:
        self._source = source
        self._size = source.expected.size
        self._stall_s = stall_s
        self._pools = AbortablePools(connections)
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._resolving = threading.Lock()
        self._resolved = False
        self._address: Address | None = None
        self._generation = 0
        self._etags: dict[tuple[str, str, int], str] = {}

    def open(self, start: int, end: int, *, whole: bool = False) -> ResponseBody:
        """Request the bytes from `start` up to `end` (exclusive); if refused, renew the address once.

        With `whole`, the file is requested without a range and read from its start; the bytes before `start` are
        skipped. Raises RetryableResponseError; RangesNotSupported if only `whole` can work; TransferRefused; and the
        permanent errors of the source.
        """
        if self._resolved:
            return self._open(start, end, whole=whole)
        # The first response resolves the redirects for all threads, so that they are requested once.
        with self._resolving:
            if not self._resolved:
                return self._open(start, end, whole=whole)
        return self._open(start, end, whole=whole)

    def _open(self, start: int, end: int, *, whole: bool) -> ResponseBody:
        address, generation = self._current_address(refused=None)
        try:
            response, final = self._request(address, start, end, whole=whole)
            if response.status in _REFUSED_STATUS:
                response.close()
                address, generation = self._current_address(refused=generation)
                response, final = self._request(address, start, end, whole=whole)
            try:
                if response.status in _REFUSED_STATUS:
                    raise self._refusal(response.status, start, end)
                body = open_body(response, start=start, end=end, size=self._size, whole=whole, stall_s=self._stall_s)
                self._check_etag(response, final)
            except BaseException:
                response.close()
                raise
        except RetryableResponseError:
            # The target of a redirect may be what is broken: the next attempt asks the source again.
            self._remember(None, generation)
            raise
        self._remember(final, generation)
        return body

    def abort(self) -> None:
        self._pools.abort()

    def close(self) -> None:
        """Call it after `abort`, and after the threads that send requests ended."""
        self._pools.close()

    def _remember(self, final: Address | None, generation: int) -> None:
        """Use the address that worked for the next ranges; with None, forget it. Ignored for an older generation."""
        with self._lock:
            if generation == self._generation:
                self._address = final
                self._resolved = final is not None

    def _current_address(self, *, refused: int | None) -> tuple[Address, int]:
        """The address to use, and its generation. A new one if the generation `refused` is still the current one."""
        with self._renewing:
            stale = refused is not None and refused == self._generation
            with self._lock:
                address, generation = self._address, self._generation
            if address is None or stale:
                try:
                    address = self._source.address(renew=stale)
                except TransientError as error:
                    raise RetryableResponseError(error.message, retry_after_s=error.retry_after_s) from error
                with self._lock:
                    self._address, self._resolved = address, False
                    self._generation = generation = generation + 1
            return address, generation

    def _request(
        self, address: Address, start: int, end: int, *, whole: bool
    ) -> tuple[urllib3.BaseHTTPResponse, Address]:
        """Follow redirects; return the first other response and the address that it came from."""
        for _ in range(_MAX_REDIRECTS + 1):
            headers = {**address.headers, "Accept-Encoding": "identity"}
            if not whole:
                headers["Range"] = f"bytes={start}-{end - 1}"
            proxy = address.network.proxy_for(address.url)
            try:
                if proxy is not None:
                    address.reach.check_written(_host(address))
                response = self._pools.pool_for(address.url, address.network, proxy, address.reach).request(
                    "GET",
                    address.url,
                    headers=headers,
                    preload_content=False,
                    redirect=False,
                    retries=False,
                    timeout=urllib3.Timeout(connect=min(_CONNECT_S, self._stall_s), read=self._stall_s),
                )
            except BadSetting:
                raise
            except ForbiddenAddress as error:
                raise TransferRefused(
                    f"{self._source.label} is redirected to {error}, which is not followed", cure=FORBIDDEN_CURE
                ) from None
            except (HTTPError, OSError, ValueError) as error:  # ValueError: a response that is not HTTP
                raise self._failure(error, address, proxy) from None
            if proxy is not None and response.status == _PROXY_AUTHENTICATION_REQUIRED:
                response.close()
                raise proxy.refusal(response.status, _host(address), TransferInterrupted)
            self._check_commit(response, address)
            location = response.headers.get("Location")
            if response.status not in _REDIRECT_STATUS or not location:
                return response, address
            response.close()
            address = self._redirected(address, location)
        raise TransferRefused(
            f"{self._source.label} is redirected more than {_MAX_REDIRECTS} times",
            cure="check which server answers at its URL",
        )

    def _failure(self, error: Exception, address: Address, proxy: HttpProxy | None) -> Exception:
        """The error for a request without a response."""
        if proxy is not None:
            failure = proxy.tunnel_refusal(error, _host(address), TransferInterrupted)
            if failure is None and isinstance(error, ProxyError):
                failure = proxy.unreachable(_host(address), TransferInterrupted)
            if isinstance(failure, TransientError):
                return RetryableResponseError(failure.message, busy=True)
            if failure is not None:
                return failure
        if is_untrusted(error):
            return TransferRefused(
                f"the certificate of {_host(address)} is not trusted, which has {self._source.label}",
                cure=address.network.untrusted_cure,
            )
        # A server at its connection limit refuses the next connection, or leaves it unanswered.
        refused = isinstance(error, (NewConnectionError, ConnectTimeoutError))
        _, host, port = _origin(urlsplit(address.url))
        message = f"{host}:{port} did not answer: {describe_error(error, self._stall_s)}"
        return RetryableResponseError(message, busy=refused)

    def _redirected(self, address: Address, location: str) -> Address:
        try:
            target_url = urljoin(address.url, location)
            current, target = urlsplit(address.url), urlsplit(target_url)
            same_origin = _origin(current) == _origin(target)
        except ValueError:
            raise RetryableResponseError("the response redirects to an invalid URL") from None
        if (
            target.scheme not in _PORTS
            or not target.hostname
            or (current.scheme == "https" and target.scheme == "http")
        ):
            raise TransferRefused(
                f"{self._source.label} is redirected from {current.scheme} to {target.scheme[:20] or 'nowhere'}, "
                "which is not followed",
                cure="check which server answers at its URL",
            )
        if same_origin:
            return replace(address, url=target_url)
        return Address(target_url, network=address.network, server=address.server or address.url)

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
            f"the source refuses to send {label} (status {status}), also after its URL was renewed",
            cure="check the token or the access key, and the terms of the repository",
        )

    def _check_commit(self, response: urllib3.BaseHTTPResponse, address: Address) -> None:
        commit = response.headers.get("X-Repo-Commit")
        if address.commit and commit and commit != address.commit:
            response.close()
            raise TransferRefused(
                f"the Hub answered with commit {commit[:40]!r} for {self._source.label}",
                cure="try again; if it stays so, check HF_ENDPOINT",
            )

    def _check_etag(self, response: urllib3.BaseHTTPResponse, address: Address) -> None:
        """Raise if the ETag changed: ranges of two versions do not make one file.

        Weak ETags are not compared: they do not promise identical bytes (RFC 9110, 8.8.1).
        """
        etag = response.headers.get("ETag", "")
        if not etag.startswith('"'):
            return
        with self._lock:
            first = self._etags.setdefault(_origin(urlsplit(address.url)), etag)
        if first != etag:
            raise RetryableResponseError("the file changed at its source while it was fetched: its ETag differs")


def _host(address: Address) -> str:
    return urlsplit(address.url).hostname or ""


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)
