"""Canary of a started llama-server: whether it computes numbers with its model, by the model's kind.

| kind | check |
|---|---|
| language model | eight greedy tokens have finite log-probabilities that differ |
| embedding model | the embeddings of two prompts are finite, not zero, and differ |
| reranker | the scores of two texts are finite |

It is the check of `paddock.engine.canary`, through HTTP.
"""

from __future__ import annotations

import math
from typing import Any

import httpx

from paddock.engine.canary import CANARY_TOKENS, CURE
from paddock.errors import ModelRejected
from paddock.gguf.kind import ModelKind

_NO_SCORE = -1e6
"""Score in llama-server's answer where the engine gave none."""


async def check_canary(client: httpx.AsyncClient, kind: ModelKind) -> None:
    """Raises ModelRejected, and httpx.HTTPError if the server does not answer."""
    check = {ModelKind.EMBEDDING: _embedding_problem, ModelKind.RERANKER: _score_problem}.get(kind, _text_problem)
    problem = await check(client)
    if problem:
        raise ModelRejected(f"the model was loaded, but {problem}", cure=CURE)


async def _text_problem(client: httpx.AsyncClient) -> str | None:
    """llama-server lists no token that ends inside a character, so that of random bytes it may list none. Then other
    tokens are sampled."""
    body = {"prompt": "Hello", "n_predict": CANARY_TOKENS, "ignore_eos": True, "n_probs": 2, "seed": 1}
    for temperature in (0, 2):
        answer = await _post(client, "/completion", {**body, "temperature": temperature})
        tokens = answer.get("completion_probabilities") or []
        if tokens:
            break
    if not tokens or answer.get("tokens_predicted", CANARY_TOKENS) < CANARY_TOKENS:
        return f"does not generate {CANARY_TOKENS} tokens with log-probabilities"
    for number, token in enumerate(tokens, 1):
        if not token["top_logprobs"] or not _are_finite([choice.get("logprob") for choice in token["top_logprobs"]]):
            return f"gives log-probabilities that are not finite for token {number}"
    if all(len({choice["logprob"] for choice in token["top_logprobs"]}) == 1 for token in tokens):
        return "gives the same probability to every token"
    return None


async def _embedding_problem(client: httpx.AsyncClient) -> str | None:
    answer = await client.get("/v1/models", timeout=None)
    answer.raise_for_status()
    middle = answer.json()["data"][0]["meta"]["n_vocab"] // 2
    body = {"content": [[0, 1, 2], [middle, middle + 1, middle + 2]], "embd_normalize": -1}
    first, second = (one["embedding"][0] for one in await _post(client, "/embeddings", body))
    if not first or not second:
        return "gives no embedding"
    if not _are_finite([*first, *second]):
        return "gives embeddings that are not finite"
    if not any(first) or not any(second):
        return "gives embeddings of zeros"
    return "gives the same embedding to different prompts" if first == second else None


async def _score_problem(client: httpx.AsyncClient) -> str | None:
    body = {"query": "Hello", "documents": ["Hello", "Good evening, and welcome"]}
    scores = [one.get("relevance_score") for one in (await _post(client, "/v1/rerank", body))["results"]]
    if len(scores) != len(body["documents"]) or _NO_SCORE in scores:
        return "gives no score"
    return None if _are_finite(scores) else "gives scores that are not finite"


async def _post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    answer = await client.post(path, json=body, timeout=None)
    answer.raise_for_status()
    return answer.json()


def _are_finite(numbers: list[Any]) -> bool:
    """Whether all are finite numbers. llama-server writes any other number as null."""
    return all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
