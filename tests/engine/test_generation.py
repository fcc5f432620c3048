"""Greedy answers, and what of a conversation is computed twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from paddock.engine import process
from paddock.engine.parameters import Parameters
from tests.support.architectures import sound
from tests.support.engine import run_engine
from tests.support.forgetful import tiny_gemma, tiny_mamba
from tests.support.gguf import Gguf

IN_A_ROW = """
import json, sys
from paddock.engine.bindings import Log, Session
from paddock.engine.parameters import Parameters

one = [1 + number % 50 for number in range(600)]
other = [*one[:590], 51, 52, 53]
parameters = Parameters(n_ctx=1024, n_threads=1, n_ubatch=32, swa_full=sys.argv[2] == "all")
log = Log()
with Session([sys.argv[1]], parameters, log) as session:
    session.decode(other)
    alone = session.logits().copy()
    session.clear()
    session.decode(session.reuse_prefix(one))
    rest = session.reuse_prefix(other)
    session.decode(rest)
    print(json.dumps({"computed": len(rest), "apart": float(abs(session.logits() - alone).max())}))
"""


@pytest.mark.parametrize(
    ("make", "whole", "computed"),
    [
        (lambda: sound("llama"), "windows", 3),
        (lambda: tiny_gemma(layers=6, width=64, window=8), "all", 3),
        (lambda: tiny_gemma(layers=6, width=64, window=8), "windows", 593),
        (lambda: tiny_mamba(layers=2, width=32, state=16), "all", 593),
    ],
    ids=["every token is kept", "windows that keep all", "windows that do not", "a recurrent state"],
)
def test_what_two_prompts_begin_with_is_computed_once_where_the_memory_can_go_back(
    tmp_path: Path, make: Callable[[], Gguf], whole: str, computed: int
) -> None:
    path = make().write(tmp_path / "m.gguf")
    said = run_engine(IN_A_ROW, path, whole)
    assert said["computed"] == computed
    assert said["apart"] < 1e-3


def test_answers_in_a_row_are_those_of_each_prompt_alone(model: Path) -> None:
    card = "<|im_start|>system\nYou keep a paddock in the hills, and your horse is called Bramble.<|im_end|>\n"
    prompts = [
        f"{card}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        for question in ("Who are you?", "What is your horse called?", "Who are you?")
    ]

    def said_to(prompts: list[str]) -> list[dict[str, str]]:
        parameters = Parameters(n_ctx=256, n_threads=1)
        with process.open_shards(model) as descriptors:
            request: dict[str, Any] = {"paths": process.paths_of(descriptors), "parameters": parameters.to_json()}
            request |= {"prompts": prompts, "n_gen": 16, "stop": []}
            said: Mapping[str, Any] = process.run("generate", request, timeout_s=60, descriptors=descriptors).result
        answers: list[dict[str, str]] = said["answers"]
        return answers

    together = said_to(prompts)
    assert together == [said_to([prompt])[0] for prompt in prompts]
    assert together[0]["text"].strip()
