"""Show pictures in Markdown artifacts.

A picture is an image within the text, whose address is its SVG itself (`data:image/svg+xml;base64,...`): it needs no
server that the browser reaches. Both user interfaces of Prefect 3.8 show it. They show an image artifact too, but write
its whole address below it. A browser runs no script in an SVG that is an image.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Sequence

from paddock.lifecycle.run.pictures import KeptPicture
from paddock.model.markdown import as_text

OF_BENCHMARK = ("memory", "throughput", "latency", "runs")
MOST_CHARACTERS = 500_000
"""Of the pictures of one artifact: Prefect's interface gets all of it at once."""


def embedded(pictures: Sequence[KeptPicture], names: Collection[str]) -> Iterator[str]:
    """The Markdown of the pictures of those names."""
    left = MOST_CHARACTERS
    for picture in pictures:
        if picture.name in names:
            text = f"![{as_text(f'{picture.title}. {picture.alt}')}]({address(picture.svg)})"
            left -= len(text)
            yield text if left >= 0 else f"{as_text(picture.title)} is too large to be shown here."


def with_files_embedded(markdown: str, pictures: Sequence[KeptPicture]) -> str:
    """A page that shows files of pictures, with the pictures in it."""
    left = MOST_CHARACTERS
    for picture in pictures:
        inside = address(picture.svg)
        left -= len(inside)
        if left >= 0:
            markdown = markdown.replace(f"]({picture.svg_file})", f"]({inside})")
    return markdown


def address(svg: str) -> str:
    """The address of an image that holds the image itself."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
