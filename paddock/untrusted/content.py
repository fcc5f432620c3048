"""The exception for content that cannot be used."""

from __future__ import annotations


class UnusableContent(ValueError):
    """Content that others wrote cannot be used. `reason` ends a sentence: "it is nested deeper than 64 levels". `key`
    is the path of the value in a document, with dots (`files.0.size`); "" for the document as a whole. `source` is the
    path of the file, where it is one."""

    def __init__(self, reason: str, *, key: str = "", source: str = "") -> None:
        super().__init__(reason, key, source)
        self.reason = reason
        self.key = key
        self.source = source

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.key, self.reason) if part)

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.reason, self.key, self.source)


def _restore(reason: str, key: str, source: str) -> UnusableContent:
    return UnusableContent(reason, key=key, source=source)
