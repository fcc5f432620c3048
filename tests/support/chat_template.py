"""Chat templates for tests of requests: one that uses all of a request but system messages, and one with odd calls."""

from __future__ import annotations

from dataclasses import replace

from paddock.serving.spec import ServeSpec

DEMANDING = """\
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('there are no system messages here') }}{% endif -%}
{%- if tools %}{{ '<|im_start|>tools\\n' }}
{%- for tool in tools %}{{ tool | tojson ~ '\\n' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endif -%}
{%- for message in messages -%}
{%- if not loop.first and message['role'] == 'user' and messages[loop.index0 - 1]['role'] == 'user' -%}
{{ raise_exception('roles must alternate') }}
{%- endif -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['name'] %}{{ message['name'] + ': ' }}{% endif -%}
{%- if message['content'] %}{{ message['content'] }}{% endif -%}
{%- for call in message['tool_calls'] or [] -%}
{{ '<tool_call>\\n{"name": "' + call['function']['name'] + '", "arguments": ' }}
{{- call['function']['arguments'] | tojson }}{{ '}\\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking %}{{ 'think\\n' }}{% endif -%}
{%- if reasoning_effort is defined %}{{ 'effort ' + reasoning_effort + '\\n' }}{% endif -%}
{%- endif -%}
"""

UNRECOGNIZED_CALLS = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['content'] %}{{ message['content'] }}{% endif -%}
{%- for call in message['tool_calls'] or [] -%}
{{ call['function']['name'] }}(
{%- for name, value in call['function']['arguments'] | items %}{{ name }}={{ value }}{% endfor -%}
)
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
"""A chat template whose tool calls llama-server does not recognize in answers."""


def with_demanding_template(spec: ServeSpec) -> ServeSpec:
    return replace(spec, chat=replace(spec.chat, template=DEMANDING, stop=("<|im_end|>",)))
