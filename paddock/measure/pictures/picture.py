"""A picture of figures, as PNG and as SVG."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in both formats, with the same content.

    `name` is the stem of its files, such as `memory`. `title` and `alt` are plain text; `alt` states the figures that
    the picture shows, for those who do not see it.
    """

    name: str
    title: str
    alt: str
    png: bytes
    svg: str

    def files(self) -> tuple[tuple[str, bytes], ...]:
        """Return (file name, content) of each format."""
        return (f"{self.name}.png", self.png), (f"{self.name}.svg", self.svg.encode())
