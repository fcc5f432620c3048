"""Greedy generation, and reuse of the prefix that two prompts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from paddock.engine import process
from paddock.engine.parameters import Parameters
from tests.support.architectures import sound
from tests.support.engine import run_engine
from tests.support.gguf import Gguf
from tests.support.tiny_mamba_gemma import tiny_gemma, tiny_mamba

SHARED_PREFIX = """
import json, sys
from paddock.engine.bindings import Session
from paddock.engine.log import Log
from paddock.engine.parameters import Parameters

first = [1 + number % 50 for number in range(600)]
second = [*first[:590], 51, 52, 53]
parameters = Parameters(n_ctx=1024, n_threads=1, n_ubatch=32, swa_full=sys.argv[2] == "all")
log = Log()
with Session([sys.argv[1]], parameters, log) as session:
    session.decode(second)
    alone = session.logits().copy()
    session.clear()
    session.decode(session.reuse_prefix(first))
    rest = session.reuse_prefix(second)
    session.decode(rest)
    print(json.dumps({"computed": len(rest), "difference": float(abs(session.logits() - alone).max())}))
"""


@pytest.mark.parametrize(
    ("make", "whole", "computed"),
    [
        (lambda: sound("llama"), "windows", 3),
        (lambda: tiny_gemma(layers=6, width=64, window=8), "all", 3),
        (lambda: tiny_gemma(layers=6, width=64, window=8), "windows", 593),
        (lambda: tiny_mamba(layers=2, width=32, state=16), "all", 593),
    ],
    ids=["full cache", "sliding window, full cache", "sliding window", "recurrent state"],
)
def test_a_shared_prefix_is_computed_once_where_the_context_can_drop_tokens(
    tmp_path: Path, make: Callable[[], Gguf], whole: str, computed: int
) -> None:
    path = make().write(tmp_path / "m.gguf")
    result = run_engine(SHARED_PREFIX, path, whole)
    assert result["computed"] == computed
    assert result["difference"] < 1e-3


def test_consecutive_answers_equal_those_of_each_prompt_alone(model: Path) -> None:
    card = "<|im_start|>system\nYou keep a paddock in the hills, and your horse is called Bramble.<|im_end|>\n"
    prompts = [
        f"{card}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        for question in ("Who are you?", "What is your horse called?", "Who are you?")
    ]

    def answers_to(prompts: list[str]) -> list[dict[str, str]]:
        parameters = Parameters(n_ctx=256, n_threads=1)
        with process.open_shards(model) as descriptors:
            request: dict[str, Any] = {"paths": process.paths_of(descriptors), "parameters": parameters.to_json()}
            request |= {"prompts": prompts, "n_gen": 16, "stop": []}
            result: Mapping[str, Any] = process.run("generate", request, timeout_s=60, descriptors=descriptors).result
        answers: list[dict[str, str]] = result["answers"]
        return answers

    together = answers_to(prompts)
    assert together == [answers_to([prompt])[0] for prompt in prompts]
    assert together[0]["text"].strip()
