"""Report the text of a template that is not part of every prompt, whether or not a probe reaches it.

`prose` finds the text, and `cuts` finds where text is taken apart, so that it could be put together to other text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from jinja2 import nodes

from paddock.chat.assignments import Assignments
from paddock.chat.cuts import find_cuts
from paddock.chat.flow import Flow
from paddock.chat.literals import Literals
from paddock.chat.prose import find_prose
from paddock.model.finding import Finding, Severity

_CURE: Final = "review the text, and use the family's template if the model should not see it"
_MAX_SHOWN: Final = 1000
_MAX_LINES: Final = 64


def check_conditional_text(tree: nodes.Template, flow: Flow, assignments: Assignments) -> Iterator[Finding]:
    """Yield a warning for each line with such text, and one for each line that takes text apart."""
    texts: dict[int, list[str]] = {}
    literals = Literals.of(tree, flow)
    for prose in find_prose(literals):
        texts.setdefault(prose.line, []).append(prose.text)
    for line, found in sorted(texts.items())[:_MAX_LINES]:
        shown = " \N{HORIZONTAL ELLIPSIS} ".join(" ".join(text.split()) for text in dict.fromkeys(found))
        message = f"the template has text that it adds only to some conversations: {shown[:_MAX_SHOWN]!r}"
        yield Finding("template.conditional-text", Severity.WARN, message, f"line {line}", _CURE)
    if len(texts) > _MAX_LINES:
        message = f"the template has text that it adds only to some conversations in {len(texts)} lines"
        yield Finding("template.conditional-text", Severity.WARN, message, f"line {max(texts)}", _CURE)
    cuts = dict(find_cuts(tree, flow, assignments, [literal.text for literal in literals.strings]))
    for line, operation in sorted(cuts.items())[:_MAX_LINES]:
        message = f"{operation} takes the template's own text apart, so that it could be put together to other text"
        yield Finding("template.assembled-text", Severity.WARN, message, f"line {line}", _CURE)
