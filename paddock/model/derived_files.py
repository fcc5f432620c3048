"""Names of the files of a snapshot that Paddock makes of the others."""

from __future__ import annotations

from typing import Final

TEMPLATE_FILE: Final = "chat_template.jinja"
CHAT_FILE: Final = "chat.paddock.json"
"""The chat settings besides the template: stop sequences and the texts of the special tokens."""
DERIVED_FILES: Final = frozenset({TEMPLATE_FILE, CHAT_FILE})
