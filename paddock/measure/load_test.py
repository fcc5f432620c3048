"""How a model's server does under load, seen from outside: any server that speaks OpenAI's chat completions over HTTP.

    level           so many requests at once, for as long as there are requests left: the next begins when one ends
    latency         from sending a request to the last byte of its answer
    first token     from sending a request to the first text of its answer
    gap             between two pieces of text of one answer; the longest of an answer is when a reader stops reading
    tok_per_s       tokens of all whole answers over the time that the level took, as the server counts them where it
                    says so, else a token for each piece

An answer is whole when it names the reason that it ended. Whatever else comes is an error, counted under a few words
(`429`, `timed out`, `cut off`), and takes no part in the figures. Each request has another beginning, so that no server
answers from what it computed for the one before. Nothing is sent twice.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import urllib3
from pydantic import SecretStr

from paddock.errors import BadSetting, ServerUnavailable

LEVELS = (1, 2, 4, 8)
_CONNECT_S = 5.0
_ANSWER_BYTES = 16 * 2**20
_CURE = "start it, or correct the address"
_ASKED = "Tell me a long story about a lighthouse, a storm and a letter that came too late. Take your time."


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds."""

    p50: float
    p90: float
    p99: float
    longest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles | None:
        """By the nearest rank: each is a value that was seen. None of nothing."""
        ordered = sorted(values)
        if not ordered:
            return None
        ranks = (ordered[max(-(-len(ordered) * share // 100), 1) - 1] for share in (50, 90, 99, 100))
        return cls(*(round(value, 4) for value in ranks))


@dataclass(frozen=True, slots=True)
class Level:
    """What came of `requests`, `concurrency` at once. Percentiles are None where nothing was seen of it."""

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
    def from_json(cls, value: Mapping[str, Any]) -> Level:
        parts = {name: Percentiles(**value[name]) if value[name] else None for name in _PERCENTILES}
        return cls(**{**value, "errors": dict(value["errors"]), **parts})


_PERCENTILES = ("latency_s", "first_token_s", "gap_s")


@dataclass(frozen=True, slots=True)
class Sweep:
    """A level after the other, of answers of at most `max_tokens`. `model` is the name that the server gave."""

    model: str
    max_tokens: int
    streamed: bool
    levels: tuple[Level, ...]

    def rows(self) -> list[tuple[str, str, str]]:
        """(test, figure, errors) as people read them."""
        return [
            (
                f"over HTTP, {one.concurrency} at once",
                f"{one.tok_per_s:.1f} tokens/s"
                + (f", first token {one.first_token_s.p50 * 1000:.0f} ms" if one.first_token_s else "")
                + (f" (p99 {one.first_token_s.p99 * 1000:.0f} ms)" if one.first_token_s else "")
                + (f", gaps {one.gap_s.p50 * 1000:.0f} ms (p99 {one.gap_s.p99 * 1000:.0f} ms)" if one.gap_s else ""),
                ", ".join(f"{number} × {what}" for what, number in one.errors.items()),
            )
            for one in self.levels
        ]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "levels": [asdict(level) for level in self.levels]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Sweep:
        return cls(**{**value, "levels": tuple(Level.from_json(level) for level in value["levels"])})


@dataclass(frozen=True, slots=True)
class _Answer:
    """`error` is empty for a whole answer. `pieces` are the moments at which text came, from the sending on."""

    error: str
    seconds: float
    tokens: int
    pieces: tuple[float, ...]


def sweep(
    url: str,
    *,
    api_key: SecretStr | None = None,
    levels: Sequence[int] = LEVELS,
    requests: int = 16,
    max_tokens: int = 64,
    streamed: bool = True,
    timeout_s: float = 120.0,
) -> Sweep:
    """Load the server whose API begins at `url` (`http://127.0.0.1:8080/v1`): at each level `requests` in all, and
    never fewer than are sent at once.

    Raises BadSetting for an address that is none, and ServerUnavailable where nothing answers there as such a server
    does. What goes wrong with a request after that is counted.
    """
    base = _checked(url)
    headers = {"Authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}
    with urllib3.PoolManager(
        maxsize=max(levels),
        retries=False,
        timeout=urllib3.Timeout(connect=_CONNECT_S, read=timeout_s),
        headers=headers,
    ) as pool:
        model = _model(pool, base)
        body = {"model": model, "max_tokens": max_tokens, "stream": streamed, "temperature": 0.0}
        if streamed:
            body["stream_options"] = {"include_usage": True}
        _ask(pool, base, body, "warm-up")
        done = tuple(_level(pool, base, body, level, max(requests, level)) for level in levels)
    return Sweep(model, max_tokens, streamed, done)


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc and not parts.query
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        raise BadSetting(
            "the server's address is not usable",
            cure="give one without credentials, such as http://127.0.0.1:8080/v1",
        )
    return url.rstrip("/")


def _model(pool: urllib3.PoolManager, base: str) -> str:
    """The first model that the server has. Raises ServerUnavailable."""
    try:
        response = pool.request("GET", f"{base}/models")
        if response.status != 200:
            raise ServerUnavailable(f"the server at {base} answers {response.status} to /models", cure=_CURE)
        return str(response.json()["data"][0]["id"])
    except urllib3.exceptions.HTTPError as error:
        raise ServerUnavailable(f"no server answers at {base}: {_words(error)}", cure=_CURE) from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise ServerUnavailable(f"what answers at {base} names no model as OpenAI's API does", cure=_CURE) from None


def _level(pool: urllib3.PoolManager, base: str, body: Mapping[str, Any], concurrency: int, requests: int) -> Level:
    began = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as workers:
        answers = list(workers.map(lambda number: _ask(pool, base, body, f"{concurrency}.{number}"), range(requests)))
    seconds = time.perf_counter() - began
    whole = [answer for answer in answers if not answer.error]
    return Level(
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


def _ask(pool: urllib3.PoolManager, base: str, body: Mapping[str, Any], number: str) -> _Answer:
    """One request, from its sending to its end; what goes wrong with it is its `error`."""
    asked = {**body, "messages": [{"role": "user", "content": f"Story {number}. {_ASKED}"}]}
    began = time.perf_counter()
    try:
        response = pool.request("POST", f"{base}/chat/completions", json=asked, preload_content=False)
        try:
            if response.status != 200:
                response.drain_conn()
                return _Answer(str(response.status), time.perf_counter() - began, 0, ())
            if body["stream"]:
                return _streamed(response, began)
            return _at_once(response, began)
        finally:
            response.release_conn()
    except urllib3.exceptions.HTTPError as error:
        return _Answer(_words(error), time.perf_counter() - began, 0, ())
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return _Answer("not as OpenAI's API answers", time.perf_counter() - began, 0, ())


def _at_once(response: urllib3.BaseHTTPResponse, began: float) -> _Answer:
    said = json.loads(response.read(_ANSWER_BYTES))
    seconds = time.perf_counter() - began
    ended = said["choices"][0].get("finish_reason")
    return _Answer("" if ended else "cut off", seconds, int(said["usage"]["completion_tokens"]), ())


def _streamed(response: urllib3.BaseHTTPResponse, began: float) -> _Answer:
    pieces: list[float] = []
    ended, counted = False, None
    for event in _events(response):
        if "error" in event:
            return _Answer("an error in the stream", time.perf_counter() - began, 0, ())
        for choice in event.get("choices") or ():
            if (choice.get("delta") or {}).get("content"):
                pieces.append(time.perf_counter() - began)
            ended = ended or bool(choice.get("finish_reason"))
        counted = (event.get("usage") or {}).get("completion_tokens", counted)
    seconds = time.perf_counter() - began
    return _Answer("" if ended else "cut off", seconds, counted or len(pieces), tuple(pieces))


def _events(response: urllib3.BaseHTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event, when it came, until the stream says or shows that it is done."""
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
                response.drain_conn()  # or the connection could not be used again
                return
            yield json.loads(payload)


def _words(error: urllib3.exceptions.HTTPError) -> str:
    """A few words that are the same for the same failure: the client's own hold addresses and object ids."""
    if isinstance(error, urllib3.exceptions.NewConnectionError):  # in some versions it is a TimeoutError too
        return "connection refused"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "timed out"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "cut off"
    return type(error).__name__
