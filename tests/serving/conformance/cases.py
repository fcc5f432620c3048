"""Requests of which Paddock and llama-server itself must give the same answers, and where they differ, and why.

A model with random weights answers them: what it says makes no sense, but it says the same again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

TEMPLATE = """
{%- if tools -%}
<|im_start|>system
To call a function, write [[{"name": "...", "arguments": {...}}]]. The functions are {{ tools | tojson }}<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif -%}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}
[[{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}]]
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}
{%- endif -%}
"""
"""A chat template that knows tools and thoughts. Its marks of a call are no ones that a model was trained with."""

NOT_COMPARED = {
    "id": "is drawn at random by the engine, for answers and tool calls",
    "created": "is the time",
    "timings": "are times",
    "prompt_tokens_details": "say how much of the prompt an earlier request left in the engine's cache",
}
"""Fields, at any depth, that differ between two runs of llama-server."""

DIFFERENCES = {
    "model": "Paddock serves the model under its repository's name; llama-server names the file",
    "sampling": "what a request leaves out is set by the profile, and by llama-server's own defaults otherwise",
    "max_tokens": "a completion has OpenAI's default of 16 tokens; llama-server's has no limit",
    "stop": "a chat also ends at the stop sequences of the snapshot",
    "cut character": "what is left of a character that max_tokens cut is dropped, with the space before it;"
    " llama-server keeps it in a whole answer, and drops it in a stream",
    "usage": "an answer streamed without include_usage has no token usage; llama-server is asked for it all the same",
    "tool_choice": "of a function by its name is honoured; llama-server ignores it, and is asked for that tool alone",
    "logprobs": "without top_logprobs list one token for each position; llama-server lists 20",
    "error": "has OpenAI's form and names the field; llama-server's code is a number, and its status may be a 500",
    "models": "describe the snapshot: revision, variant, quantization, context",
}
"""Differences that are on purpose, with their reasons. The cases set sampling and lengths themselves, so that their
answers can be equal."""


@dataclass(frozen=True)
class Case:
    """A request to an endpoint of OpenAI's package. `bare` are the fields that say the same to llama-server where it
    takes others, and `bare_status` is its status where that is another one."""

    name: str
    body: dict[str, Any]
    endpoint: str = "chat"
    bare: dict[str, Any] | None = None
    status: int = 200
    bare_status: int | None = None


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


QUESTION = user("Name three colours.")
_GREEDY = {"temperature": 0, "max_tokens": 12}
_SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.9, "top_k": 30, "min_p": 0.01, "max_tokens": 12}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place",
        "parameters": {
            "type": "object",
            "properties": {"hot": {"type": "boolean"}, "unit": {"type": "string", "enum": ["C", "F"]}},
            "required": ["hot", "unit"],
        },
    },
}
TIME = {
    "type": "function",
    "function": {"name": "time", "parameters": {"type": "object", "properties": {"utc": {"type": "boolean"}}}},
}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call1", "type": "function", "function": {"name": "weather", "arguments": '{"hot": true, "unit": "C"}'}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call1", "content": "21"}
_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "green"]}, "warm": {"type": "boolean"}},
    "required": ["colour", "warm"],
    "additionalProperties": False,
}
_GRAMMAR = 'root ::= "yes" | "no"'


def chat(name: str, *messages: dict[str, Any], bare: dict[str, Any] | None = None, **fields: Any) -> Case:
    """A chat without thoughts, unless it asks for them: llama-server's default is to ask."""
    body = {"messages": list(messages) or [QUESTION], "chat_template_kwargs": {"enable_thinking": False}}
    return Case(name, {**body, **_GREEDY, **fields}, bare=bare)


def completion(name: str, prompt: object = "One, two,", **fields: Any) -> Case:
    return Case(name, {"prompt": prompt, **_GREEDY, **fields}, "completion")


def streamed(case: Case) -> Case:
    """The case with a streamed answer and its token usage."""
    body = {**case.body, "stream": True, "stream_options": {"include_usage": True}}
    return replace(case, name=f"{case.name}, streamed", body=body)


_TOKENS = {"[[": 30109, "{": 90, "{}": 23884, "I": 40}
"""Tokens of GPT-2's vocabulary."""


def _bias(token: str) -> dict[str, int]:
    """Prefer a token wherever the grammar allows it. An answer that has to be JSON or a call begins with its first
    token then, where a model without a thought of its own would generate one for ever."""
    return {str(_TOKENS[token]): 100}


_CALL: dict[str, Any] = {"tools": [WEATHER, TIME], "max_tokens": 40, "logit_bias": _bias("[[")}
WHOLE = [
    chat("chat"),
    chat("a system message", {"role": "system", "content": "Be brief."}, QUESTION),
    chat("the developer role", {"role": "developer", "content": "Be brief."}, QUESTION),
    chat("two turns", QUESTION, {"role": "assistant", "content": "Red."}, user("And two more?")),
    chat("a prefilled answer", QUESTION, {"role": "assistant", "content": "Red, green"}),
    chat("text parts", user([{"type": "text", "text": "Name three"}, {"type": "text", "text": " colours."}])),
    chat("names", {**QUESTION, "name": "Ada"}),
    chat("null content of a call, and its result", QUESTION, CALLED, RESULT, tools=[WEATHER]),
    chat("max_completion_tokens", max_tokens=None, max_completion_tokens=5),
    chat("nulls", stop=None, seed=None, logit_bias=None, tools=None, response_format=None, n=None, top_p=None),
    chat("a stop sequence", stop=["e"]),
    chat("two stop sequences", stop=["q", "i"]),
    chat("a seed", **_SAMPLED, seed=7),
    chat("another seed", **_SAMPLED, seed=8),
    chat("penalties", presence_penalty=0.5, frequency_penalty=0.5),
    chat("logit_bias", logit_bias=_bias("I")),
    chat("logprobs", logprobs=True, top_logprobs=3),
    chat("logprobs alone", logprobs=True, bare={"top_logprobs": 1}),
    chat("n", n=2, **_SAMPLED, seed=3),
    chat("tools that are not called", tools=[WEATHER], tool_choice="none"),
    chat("tools, by choice", tools=[WEATHER, TIME], tool_choice="auto"),
    chat("a required call", **_CALL, tool_choice="required", parallel_tool_calls=False),
    chat(
        "a call of one tool",
        **_CALL,
        tool_choice={"type": "function", "function": {"name": "time"}},
        parallel_tool_calls=False,
        bare={"tools": [TIME], "tool_choice": "required"},
    ),
    chat("parallel calls", **_CALL, tool_choice="required", parallel_tool_calls=True),
    chat("json_object", response_format={"type": "json_object"}, logit_bias=_bias("{}"), max_tokens=24),
    chat(
        "json_schema",
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA, "strict": True}},
        logit_bias=_bias("{"),
        max_tokens=40,
    ),
    chat("a grammar", grammar=_GRAMMAR),
    chat("thinking", chat_template_kwargs={"enable_thinking": True}),
    chat("thinking by default", chat_template_kwargs=None),
    completion("completion"),
    completion("a prompt in a list", ["One, two,"]),
    completion("a completion's stop sequence", stop=["e"]),
    completion("a completion's seed", **_SAMPLED, seed=5),
    completion("a completion's logprobs", logprobs=2),
    completion("a completion's grammar", grammar=_GRAMMAR),
    completion("a completion's logit_bias", logit_bias=_bias("I")),
]
STREAMED = [streamed(case) for case in WHOLE]
ERRORS = [
    Case("no messages", {"messages": []}, status=400, bare_status=200),
    Case("an unknown role's content", {"messages": [{"role": "user", "content": 5}]}, status=400),
    Case("a grammar that is none", {"messages": [QUESTION], "grammar": "root ::= ("}, status=400),
    Case("too many tokens", {"messages": [user("word " * 3000)]}, status=400),
    Case("top_logprobs without logprobs", {"messages": [QUESTION], "top_logprobs": 2}, status=400),
]
TEXTS = ["w5 w6 w7", "w9"]
EMBEDDINGS = [
    Case("one text", {"input": TEXTS[0], "encoding_format": "float"}, "embeddings"),
    Case("two texts", {"input": TEXTS, "encoding_format": "float"}, "embeddings"),
    Case("tokens", {"input": [5, 6, 7], "encoding_format": "float"}, "embeddings"),
    Case("base64", {"input": TEXTS, "encoding_format": "base64"}, "embeddings"),
]
RANKS = [
    Case("rank", {"query": "What?", "documents": ["a b", "c", "d e f"]}, "rerank"),
    Case("the best", {"query": "What?", "documents": ["a b", "c", "d e f"], "top_n": 1}, "rerank"),
]
