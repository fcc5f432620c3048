"""The jobs of the engine's process, by name. Each takes the request's arguments and returns JSON.

`benchmark`, `count_tokens` and `answer` take `paths` and `parameters` (those of `Parameters`), `memory` takes `paths`
and a list of such parameters, `race` takes `paths` and `runners` (many `Parameters`), `architectures` takes `names`,
`quantize` takes `source`, `target` and `type`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

from paddock.engine import native, speech
from paddock.engine.parameters import Parameters
from paddock.engine.speed import measure_speed
from paddock.engine.speed import race as measure_race
from paddock.gguf.header import Header
from paddock.gguf.reader import FileSource, read_header

Arguments = dict[str, Any]


def memory(arguments: Arguments) -> Arguments:
    """An answer for each of the parameters, in their order: those that load the model alike are asked of one load."""
    from paddock.engine.repacking import weights_as_loaded

    asked = [Parameters.from_json(one) for one in arguments["parameters"]]
    answers: dict[int, Arguments] = {}
    order = sorted(range(len(asked)), key=lambda index: repr(asked[index].of_hollow_model()))
    for _, alike in groupby(order, key=lambda index: asked[index].of_hollow_model()):
        first, *others = alike
        log = native.Log()
        with native.Session(arguments["paths"], asked[first], log, hollow=True) as session:
            headers = _headers(arguments["paths"])
            for index in (first, *others):
                if index != first:
                    session.renew(asked[index], log)
                weights = weights_as_loaded(headers, asked[index]) or session.weights_bytes
                answers[index] = {"weights_bytes": weights, "lines": log.memory}
    return {"answers": [answers[index] for index in range(len(asked))]}


def _headers(paths: list[str]) -> list[Header]:
    with ExitStack() as files:
        return [read_header(files.enter_context(FileSource(Path(path)))) for path in paths]


def architectures(arguments: Arguments) -> Arguments:
    log = native.Log()
    known = {}
    for name in arguments["names"]:
        descriptor = os.memfd_create("header")
        try:
            os.write(descriptor, _header_of(name))
            known[name] = native.architecture_is_known(f"/proc/self/fd/{descriptor}", log)
        finally:
            os.close(descriptor)
    return {"known": known}


def benchmark(arguments: Arguments) -> Arguments:
    return measure_speed(
        arguments["paths"],
        Parameters.from_json(arguments["parameters"]),
        prompts=arguments["prompts"],
        generations=arguments["generations"],
        limit_s=arguments["limit_s"],
    )


def race(arguments: Arguments) -> Arguments:
    return measure_race(
        arguments["paths"],
        [Parameters.from_json(one) for one in arguments["runners"]],
        n_prompt=arguments["n_prompt"],
        n_gen=arguments["n_gen"],
        rounds=arguments["rounds"],
        within_s=arguments["within_s"],
    )


def count_tokens(arguments: Arguments) -> Arguments:
    return speech.count_tokens(arguments["paths"], Parameters.from_json(arguments["parameters"]), arguments["texts"])


def answer(arguments: Arguments) -> Arguments:
    return speech.answer(
        arguments["paths"],
        Parameters.from_json(arguments["parameters"]),
        arguments["prompts"],
        n_gen=arguments["n_gen"],
        stop=arguments["stop"],
    )


def quantize(arguments: Arguments) -> Arguments:
    native.Log()
    native.quantize(arguments["source"], arguments["target"], file_type=arguments["type"])
    return {"size_bytes": Path(arguments["target"]).stat().st_size}


def _header_of(architecture: str) -> bytes:
    """The smallest GGUF: magic, version 3, no tensor, and one key, `general.architecture`, a string (value type 8)."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    return (
        b"GGUF"
        + struct.pack("<IQQ", 3, 0, 1)
        + text(b"general.architecture")
        + struct.pack("<I", 8)
        + text(architecture.encode())
    )


JOBS: dict[str, Callable[[Arguments], Arguments]] = {
    "memory": memory,
    "architectures": architectures,
    "benchmark": benchmark,
    "race": race,
    "count_tokens": count_tokens,
    "answer": answer,
    "quantize": quantize,
}
