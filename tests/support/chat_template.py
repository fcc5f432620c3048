"""A chat template that refuses system messages and uses everything else that a request can bring."""

from __future__ import annotations

from dataclasses import replace

from paddock.serving.spec import ServeSpec

DEMANDING = """\
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('there are no system messages here') }}{% endif -%}
{%- if tools %}{{ '<|im_start|>tools\\nCall a tool as <tool_call>{"name": ..., "arguments": ...}</tool_call>\\n' }}
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


def with_demanding_template(spec: ServeSpec) -> ServeSpec:
    return replace(spec, chat=replace(spec.chat, template=DEMANDING, stop=("<|im_end|>",)))
