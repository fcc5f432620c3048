"""Write `paddock/chat/published_text.txt`: digests of the sentences in published chat templates.

    python -m tests.support.published_text DIRECTORY…

reads each `*.jinja` file of the directories, and those of the engine's source package. Look at a template before its
sentences are added: they are allowed in every template from then on, under any condition.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jinja2 import nodes

from paddock.chat.prose import MARKER, MARKER_CHARACTER, MIN_PROSE_WORDS, split_sentences, words_of
from paddock.chat.published_text import FILE, digest_of
from paddock.chat.sandbox import make_environment
from tests.support.templates import real_templates


def sentences(source: str) -> set[tuple[str, ...]]:
    """The words of each string of a template, and of each sentence in it; of a pair of words at least."""
    tree = make_environment().parse(source)
    texts = [str(node.value) for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    texts += [line for node in tree.find_all(nodes.TemplateData) for line in node.data.split("\n")]
    found = {words_of(sentence) for text in texts for sentence in split_sentences(text)}
    whole = {words_of(text, markers=True) for text in texts}
    markers = {
        (marker,)
        for text in texts
        for marker in [text.strip(), *MARKER.findall(text)]
        if MARKER_CHARACTER.search(marker)
    }
    return (
        markers
        | {words for words in found if len(words) > 1}
        | {words for words in whole if len(words) >= MIN_PROSE_WORDS}
    )


def main() -> None:
    sources = [file.read_text() for directory in sys.argv[1:] for file in sorted(Path(directory).glob("*.jinja"))]
    sources += real_templates().values()
    digests = {digest_of(words) for source in sources for words in sentences(source)}
    FILE.write_text("\n".join(sorted(digests)) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
