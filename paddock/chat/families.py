"""The templates of model families, for a model that has none of its own that is sound, and how a family is told.

They are made for roleplay. The character card, which is the system message, stays where it is: first. A message that
carries a `name` is shown as `Name: text`, so that characters can be told apart. A conversation may open with the
character's greeting, and two messages of one role may follow each other. A content may be a text, a list of parts, or
none.

They hold on to every message: cutting a conversation to the window is `roleplay.fit_messages`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_SPOKEN = """\
{%- macro spoken(message) -%}
{%- if message['name'] %}{{ message['name'] + ': ' }}{% endif -%}
{%- if message['content'] is string %}{{ message['content'] }}
{%- elif message['content'] -%}
{%- for part in message['content'] %}{{ part['text'] if part['text'] is string else '' }}{% endfor -%}
{%- endif -%}
{%- endmacro -%}
"""

_CHATML = (
    _SPOKEN
    + """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + spoken(message) + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
)

# The format knows no system message: whatever comes before an answer goes into one turn, the card before the user's
# words.
_MISTRAL = (
    _SPOKEN
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
    _SPOKEN
    + """\
{%- for message in messages -%}
{{ spoken(message) + eos_token }}
{%- endfor -%}
"""
)

_HUMAN = (
    _SPOKEN
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
    """A way to write conversations, and what tells the models that were trained with it.

    `architecture` begins the names of the architectures that speak no other way, `tokens` are the special tokens that
    such a vocabulary has, `pattern` finds the family in a model's name.
    """

    name: str
    source: str
    pattern: re.Pattern[str] | None = None
    architecture: str | None = None
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """A family, and why a model is taken to be of it."""

    family: Family
    why: str


# A name's letters must not go on: `Yi-34B` and `Yi1.5` are of the family, `Yield` is not.
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
    """As `tell_family`, without the reason."""
    return tell_family(model_name, architecture=architecture, tokens=tokens).family


def tell_family(model_name: str, *, architecture: str | None = None, tokens: Collection[str] = ()) -> Told:
    """The family of a model: by its architecture, then by the special tokens among `tokens` (its vocabulary), then by
    its name, of which the model's own part of `org/name` counts before the organisation's.
    """
    for family in FAMILIES:
        if family.architecture and (architecture or "").startswith(family.architecture):
            return Told(family, f"its architecture is {architecture}")
    for family in (CHATML, *FAMILIES):
        if family.tokens and all(token in tokens for token in family.tokens):
            return Told(family, f"its vocabulary has {' and '.join(family.tokens)}")
    organisation, _, own = model_name.rpartition("/")
    for part in (own, organisation):
        for family in FAMILIES:
            if family.pattern and family.pattern.search(part):
                return Told(family, f"its name says {family.name}")
    return Told(GENERIC, "neither its architecture, its vocabulary nor its name tells a family")
