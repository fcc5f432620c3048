"""The engine's errors as clients see them: 4xx, 502 or 503, with the field's name and no path of the host."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paddock.serving.http.engine_errors import engine_refusal, error_refusal

CHAT = {"messages": [], "tools": [], "grammar": "a", "model": "a", "n": 1}
TEMPLATE_ERROR = (
    "\n------------\nWhile executing CallExpression at line 3, column 20 in source:\n...ssage['role'] == 'user' %}"
    "{{ raise_exception('roles must alternate') }}...\n           ^\nError: Jinja Exception: roles must alternate"
)


def llama_error(code: int, message: str, kind: str = "server_error") -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "type": kind}}).encode()


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "Field 'seed': type must be number", (400, "invalid_value", "seed")),
        (400, "Failed to initialize samplers: failed to parse grammar", (400, "invalid_value", "grammar")),
        (500, TEMPLATE_ERROR, (400, "invalid_value", "messages")),
        (500, "Failed to parse tools: [json.exception.type_error.302]", (400, "invalid_value", "tools")),
        (500, "input (900 tokens) is too large to process. increase", (400, "context_length_exceeded", "messages")),
        (501, "This server does not support embeddings.", (400, "invalid_value", None)),
        (400, "Cannot have 2 assistant Messages at the end", (400, "invalid_value", "messages")),
        (422, "no", (422, "invalid_value", None)),
        (500, "Compute error.", (502, "engine_error", None)),
        (500, "Context size has been exceeded.", (502, "engine_error", None)),
        (500, "got exception: vector", (502, "engine_error", None)),
        (503, "Loading model", (503, "not_ready", None)),
        (504, "late", (502, "engine_error", None)),
        (302, "moved", (502, "engine_error", None)),
    ],
)
def test_a_requests_own_fault_is_a_400_and_the_engines_a_502(
    status: int, message: str, expected: tuple[int, str, str | None]
) -> None:
    error = engine_refusal(status, llama_error(status, message), CHAT)
    assert (error.status, error.code, error.param) == expected
    stated = error_refusal({"code": status, "message": message, "type": "any"}, CHAT)
    assert (stated.status, stated.code, stated.param) == expected


def test_a_prompt_beyond_the_context_has_openais_code() -> None:
    error = engine_refusal(400, llama_error(400, "request (9 tokens) exceeds", "exceed_context_size_error"), CHAT)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")


def test_a_templates_error_is_its_last_line() -> None:
    message = engine_refusal(500, llama_error(500, TEMPLATE_ERROR), CHAT).message
    assert message == "the chat template refuses this conversation: roles must alternate"


@pytest.mark.parametrize("path", ["/srv/own.env/lib/site-packages/llama_cpp", "/run/a-b/engine.sock", "/models/a.gguf"])
def test_no_path_of_the_host_is_told(path: str) -> None:
    for status in (400, 500):
        error = engine_refusal(status, llama_error(status, f"cannot open '{path}': {path}, and/or"), CHAT)
        assert path not in error.message
        assert "and/or" in error.message


@pytest.mark.parametrize(
    "content",
    [b"", b"Internal Server Error", b"[]", b'{"error": null}', b'{"error": "text"}', b'{"error": {}}', b"\xff"],
)
def test_an_answer_in_another_form_is_a_502_with_a_message(content: bytes) -> None:
    error = engine_refusal(500, content, CHAT)
    assert error.status == 502
    assert error.message


def test_a_message_is_bounded() -> None:
    error = engine_refusal(400, llama_error(400, "long " * 10_000), CHAT)
    assert len(error.message) == 500


@pytest.mark.parametrize("error", [None, 5, [], {"code": "a"}, {"code": True}, {"message": 5}])
def test_an_event_in_another_form_is_a_502(error: Any) -> None:
    assert error_refusal(error, CHAT).status == 502
