"""Chat templates of model families, used for a model without a sound template of its own, and family detection.

The templates are suited to roleplay. The character card (the system message) stays first. A message with a `name` is
rendered as `Name: text`, which distinguishes the characters. A conversation may start with the character's greeting,
and roles need not alternate. A message's content may be a string, a list of parts, or null.

The templates render every message; `roleplay.fit_messages` truncates a conversation to the context window.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_MESSAGE_MACRO = """\
{%- macro spoken(message) -%}
{%- if message['name'] %}{{ message['name'] + ': ' }}{% endif -%}
{%- if message['content'] is string %}{{ message['content'] }}
{%- elif message['content'] -%}
{%- for part in message['content'] %}{{ part['text'] if part['text'] is string else '' }}{% endfor -%}
{%- endif -%}
{%- endmacro -%}
"""

_CHATML = (
    _MESSAGE_MACRO
    + """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + spoken(message) + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
)

# The format has no system message: all messages before an answer go into one turn, the card before the user's text.
_MISTRAL = (
    _MESSAGE_MACRO
    + """\
{{- bos_token -}}
{%- set turn = namespace(text='', open=false) -%}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{%- if turn.open %}{{ '[INST] ' + turn.text + ' [/INST]' }}{% endif -%}
{{ ' ' + spoken(message) + eos_token }}
{%- set turn.text = '' -%}
{%- set turn.open = false -%}
{%- else -%}
{%- set turn.text = turn.text + ('\\n\\n' if turn.open else '') + spoken(message) -%}
{%- set turn.open = true -%}
{%- endif -%}
{%- endfor -%}
{%- if turn.open %}{{ '[INST] ' + turn.text + ' [/INST]' }}{% endif -%}
"""
)

_DIALOGPT = (
    _MESSAGE_MACRO
    + """\
{%- for message in messages -%}
{{ spoken(message) + eos_token }}
{%- endfor -%}
"""
)

_HUMAN = (
    _MESSAGE_MACRO
    + """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' %}{{ '### Assistant: ' + spoken(message) + '\\n' }}
{%- elif message['role'] in ['system', 'developer'] %}{{ spoken(message) + '\\n\\n' }}
{%- else %}{{ '### Human: ' + spoken(message) + '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '### Assistant:' }}{% endif -%}
"""
)


@dataclass(frozen=True, slots=True)
class Family:
    """A conversation format, and how to detect the models that use it.

    `source` is the Jinja template. `architecture` is the prefix of architectures that use only this format, `tokens`
    are special tokens in the vocabularies of such models, and `pattern` finds the family in a model's name.
    """

    name: str
    source: str
    pattern: re.Pattern[str] | None = None
    architecture: str | None = None
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FamilyMatch:
    """A model's family, and the reason for the choice."""

    family: Family
    reason: str


# No letter may follow the family's name: `Yi-34B` and `Yi1.5` match, `Yield` does not.
FAMILIES = (
    Family("dialogpt", _DIALOGPT, re.compile(r"dialogpt", re.IGNORECASE)),
    Family(
        "mistral",
        _MISTRAL,
        re.compile(r"(?<![a-z])(?:mistral|mixtral|ministral)(?![a-z])", re.IGNORECASE),
        architecture="mistral",
        tokens=("[INST]", "[/INST]"),
    ),
    Family("yi", _CHATML, re.compile(r"(?<![a-z])yi(?![a-z])", re.IGNORECASE)),
    Family(
        "qwen",
        _CHATML,
        re.compile(r"(?<![a-z])(?:code)?qwen(?![a-z])|(?<![a-z])qwq(?![a-z])", re.IGNORECASE),
        architecture="qwen",
    ),
)
CHATML = Family("chatml", _CHATML, tokens=("<|im_start|>", "<|im_end|>"))
GENERIC = Family("human-assistant", _HUMAN)


def family_of(model_name: str, *, architecture: str | None = None, tokens: Collection[str] = ()) -> Family:
    """Return the family of a model. Same as `detect_family`, without the reason."""
    return detect_family(model_name, architecture=architecture, tokens=tokens).family


def detect_family(model_name: str, *, architecture: str | None = None, tokens: Collection[str] = ()) -> FamilyMatch:
    """Detect a model's family by its architecture, then by the special tokens in `tokens` (its vocabulary), then by its
    name `org/name`, where the model's part has precedence over the organisation. Falls back to `GENERIC`.
    """
    for family in FAMILIES:
        if family.architecture and (architecture or "").startswith(family.architecture):
            return FamilyMatch(family, f"its architecture is {architecture}")
    for family in (CHATML, *FAMILIES):
        if family.tokens and all(token in tokens for token in family.tokens):
            return FamilyMatch(family, f"its vocabulary has {' and '.join(family.tokens)}")
    organisation, _, own = model_name.rpartition("/")
    for part in (own, organisation):
        for family in FAMILIES:
            if family.pattern and family.pattern.search(part):
                return FamilyMatch(family, f"its name says {family.name}")
    return FamilyMatch(GENERIC, "neither its architecture, its vocabulary nor its name tells a family")
