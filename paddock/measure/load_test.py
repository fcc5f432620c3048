"""Load test of a model's server over HTTP: any server with OpenAI's chat completions API.

    level           a number of concurrent requests: when one ends the next begins, until all requests are done
    latency         from sending a request to the last byte of its answer
    first token     from sending a request to the first text of its answer
    gap             between two pieces of text of one answer; a reader notices the longest gap
    tok_per_s       tokens of all complete answers divided by the time of the level; tokens as the server counts them,
                    or one for each piece of text if it does not report them

An answer is complete if it names a finish reason. Anything else is an error: it is counted under a short name (`429`,
`timed out`, `cut off`) and excluded from the figures. Each prompt starts differently, so that no server can reuse what
it computed for the one before. Requests are never retried.
"""

from __future__ import annotations

import http.client
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import urllib3

from paddock.errors import BadSetting, ServerUnavailable
from paddock.settings import Secret
from paddock.untrusted.json_text import parse_object

LEVELS = (1, 2, 4, 8)
_CONNECT_S = 5.0
_ANSWER_BYTES = 16 * 2**20
_CURE = "start the server, or correct its address"
_PROMPT = "Tell me a long story about a lighthouse, a storm and a letter that came too late. Take your time."


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Percentiles of durations in seconds; `longest` is the maximum."""

    p50: float
    p90: float
    p99: float
    longest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles | None:
        """Return nearest-rank percentiles, rounded to 4 digits; None for no values."""
        ordered = sorted(values)
        if not ordered:
            return None
        ranks = (ordered[max(-(-len(ordered) * share // 100), 1) - 1] for share in (50, 90, 99, 100))
        return cls(*(round(value, 4) for value in ranks))


@dataclass(frozen=True, slots=True)
class LevelResult:
    """Result of `requests` requests, `concurrency` at once.

    `whole` counts complete answers; `errors` counts the others by name. Percentiles are None without values.
    """

    concurrency: int
    requests: int
    whole: int
    errors: dict[str, int]
    seconds: float
    tok_per_s: float
    latency_s: Percentiles | None
    first_token_s: Percentiles | None
    gap_s: Percentiles | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LevelResult:
        parts = {name: Percentiles(**value[name]) if value[name] else None for name in _PERCENTILES}
        return cls(**{**value, "errors": dict(value["errors"]), **parts})


_PERCENTILES = ("latency_s", "first_token_s", "gap_s")


@dataclass(frozen=True, slots=True)
class LoadTest:
    """Results of all levels, with answers of at most `max_tokens`. `model` is the name that the server reported.

    `on_this_machine` says whether the address was a loopback one; None in a document of an older version.
    """

    model: str
    max_tokens: int
    streamed: bool
    levels: tuple[LevelResult, ...]
    on_this_machine: bool | None = None

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (test, figure, errors) of each level, for display."""
        return [
            (
                f"over HTTP, {level.concurrency} at once",
                f"{level.tok_per_s:.1f} tokens/s"
                + (f", first token {level.first_token_s.p50 * 1000:.0f} ms" if level.first_token_s else "")
                + (f" (p99 {level.first_token_s.p99 * 1000:.0f} ms)" if level.first_token_s else "")
                + (
                    f", gaps {level.gap_s.p50 * 1000:.0f} ms (p99 {level.gap_s.p99 * 1000:.0f} ms)"
                    if level.gap_s
                    else ""
                ),
                ", ".join(f"{number} × {name}" for name, number in level.errors.items()),
            )
            for level in self.levels
        ]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "levels": [asdict(level) for level in self.levels]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LoadTest:
        return cls(**{**value, "levels": tuple(LevelResult.from_json(level) for level in value["levels"])})


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer. `error` is empty if it is complete; `pieces` are the times of its pieces of text, in seconds after
    sending the request."""

    error: str
    seconds: float
    tokens: int
    pieces: tuple[float, ...]


def run_load_test(
    url: str,
    *,
    api_key: Secret | None = None,
    levels: Sequence[int] = LEVELS,
    requests: int = 16,
    max_tokens: int = 64,
    streamed: bool = True,
    timeout_s: float = 120.0,
) -> LoadTest:
    """Run the load test on the server whose API is at `url` (`http://127.0.0.1:8080/v1`), one level after the other.

    Each level sends `requests` requests in total, but at least as many as run at once. One warm-up request is not
    counted.

    Raises BadSetting for an unusable address, and ServerUnavailable if no such server answers there. Errors of single
    requests are counted, not raised.
    """
    base = _checked_url(url)
    with _connections(api_key, timeout_s=timeout_s, at_once=max(levels)) as pool:
        model = _model(pool, base)
        body = {"model": model, "max_tokens": max_tokens, "stream": streamed, "temperature": 0.0}
        if streamed:
            body["stream_options"] = {"include_usage": True}
        _send(pool, base, body, "warm-up")
        results = tuple(_level(pool, base, body, level, max(requests, level)) for level in levels)
    return LoadTest(
        model, max_tokens, streamed, results, on_this_machine=is_loopback_host(urlsplit(base).hostname or "")
    )


def served_model(url: str, *, api_key: Secret | None = None) -> str:
    """The name that the server at `url` reports for its model. Raises BadSetting and ServerUnavailable, as
    `run_load_test`."""
    with _connections(api_key, timeout_s=_CONNECT_S, at_once=1) as pool:
        return _model(pool, _checked_url(url))


def _connections(api_key: Secret | None, *, timeout_s: float, at_once: int) -> urllib3.PoolManager:
    headers = {"Authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}
    timeout = urllib3.Timeout(connect=_CONNECT_S, read=timeout_s)
    return urllib3.PoolManager(maxsize=at_once, retries=False, timeout=timeout, headers=headers)


def is_loopback_host(host: str) -> bool:
    """Whether a host of an address is this machine for certain. Other names are not resolved."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc and not parts.query
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        raise BadSetting(
            "the server's address is not usable",
            cure="give an http or https URL without credentials, such as http://127.0.0.1:8080/v1",
        )
    return url.rstrip("/")


def _model(pool: urllib3.PoolManager, base: str) -> str:
    """Return the name of the server's first model. Raises ServerUnavailable."""
    try:
        response = pool.request("GET", f"{base}/models")
        if response.status != 200:
            raise ServerUnavailable(f"the server at {base} answered {response.status} to /models", cure=_CURE)
        return str(response.json()["data"][0]["id"])
    except urllib3.exceptions.HTTPError as error:
        raise ServerUnavailable(f"no server answers at {base}: {_error_name(error)}", cure=_CURE) from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise ServerUnavailable(f"the server at {base} lists no model in OpenAI's format", cure=_CURE) from None


def _level(
    pool: urllib3.PoolManager, base: str, body: Mapping[str, Any], concurrency: int, requests: int
) -> LevelResult:
    began = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as workers:
        answers = list(workers.map(lambda number: _send(pool, base, body, f"{concurrency}.{number}"), range(requests)))
    seconds = time.perf_counter() - began
    whole = [answer for answer in answers if not answer.error]
    return LevelResult(
        concurrency=concurrency,
        requests=requests,
        whole=len(whole),
        errors=dict(Counter(answer.error for answer in answers if answer.error)),
        seconds=round(seconds, 3),
        tok_per_s=round(sum(answer.tokens for answer in whole) / seconds, 2),
        latency_s=Percentiles.of([answer.seconds for answer in whole]),
        first_token_s=Percentiles.of([answer.pieces[0] for answer in whole if answer.pieces]),
        gap_s=Percentiles.of(
            [
                later - earlier
                for answer in whole
                for earlier, later in zip(answer.pieces, answer.pieces[1:], strict=False)
            ]
        ),
    )


def _send(pool: urllib3.PoolManager, base: str, body: Mapping[str, Any], number: str) -> _Answer:
    """Send one request and read its answer; a failure becomes its `error`."""
    request = {**body, "messages": [{"role": "user", "content": f"Story {number}. {_PROMPT}"}]}
    began = time.perf_counter()
    try:
        try:
            response = pool.request("POST", f"{base}/chat/completions", json=request, preload_content=False)
        except urllib3.exceptions.ProtocolError as error:
            # A server may close a kept connection at the moment when it is used again, as llama-server often does.
            if not isinstance(error.args[-1], http.client.RemoteDisconnected):
                raise
            began = time.perf_counter()
            response = pool.request("POST", f"{base}/chat/completions", json=request, preload_content=False)
        try:
            if response.status != 200:
                response.drain_conn()
                return _Answer(str(response.status), time.perf_counter() - began, 0, ())
            if body["stream"]:
                return _read_stream(response, began)
            return _read_complete(response, began)
        finally:
            response.release_conn()
    except urllib3.exceptions.HTTPError as error:
        return _Answer(_error_name(error), time.perf_counter() - began, 0, ())
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return _Answer("not as OpenAI's API answers", time.perf_counter() - began, 0, ())


def _read_complete(response: urllib3.BaseHTTPResponse, began: float) -> _Answer:
    value = parse_object(response.read(_ANSWER_BYTES), max_bytes=_ANSWER_BYTES, strict=False)
    seconds = time.perf_counter() - began
    ended = value["choices"][0].get("finish_reason")
    return _Answer("" if ended else "cut off", seconds, int(value["usage"]["completion_tokens"]), ())


def _read_stream(response: urllib3.BaseHTTPResponse, began: float) -> _Answer:
    pieces: list[float] = []
    ended, reported_tokens = False, None
    for event in _events(response):
        if "error" in event:
            return _Answer("an error in the stream", time.perf_counter() - began, 0, ())
        for choice in event.get("choices") or ():
            if (choice.get("delta") or {}).get("content"):
                pieces.append(time.perf_counter() - began)
            ended = ended or bool(choice.get("finish_reason"))
        reported_tokens = (event.get("usage") or {}).get("completion_tokens", reported_tokens)
    seconds = time.perf_counter() - began
    return _Answer("" if ended else "cut off", seconds, reported_tokens or len(pieces), tuple(pieces))


def _events(response: urllib3.BaseHTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the JSON of each server-sent event as it arrives, until `[DONE]` or the end of the stream."""
    rest, received = b"", 0
    while data := response.read1(65536):
        received += len(data)
        if received > _ANSWER_BYTES:
            raise ValueError
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            payload = line[5:].strip()
            if payload == b"[DONE]":
                response.drain_conn()  # otherwise the connection could not be reused
                return
            yield parse_object(payload, max_bytes=_ANSWER_BYTES, strict=False)


def _error_name(error: urllib3.exceptions.HTTPError) -> str:
    """Return a short name for a failure. Not urllib3's message: it contains addresses and object ids."""
    if isinstance(
        error, urllib3.exceptions.NewConnectionError
    ):  # some versions derive it from TimeoutError: check it first
        return "connection refused"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "timed out"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "cut off"
    return type(error).__name__
