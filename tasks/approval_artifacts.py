"""Create the Prefect artifact of an approval: what a person is asked, the differences, and the begin of the dossier."""

from __future__ import annotations

from paddock.lifecycle.promote.approval import Question
from paddock.model.markdown import as_text, verbatim
from tasks.escaped_artifacts import create_page
from tasks.subject import ArtifactSubject

_SHOWN_LINES = 8
_SHOWN_CHARACTERS = 120


def approval(subject: ArtifactSubject, question: Question) -> None:
    """The question, how to answer it, what differs, and what is known of the snapshot, as Markdown."""
    create_page(key=subject.key("approval"), markdown=approval_markdown(question), description=question.line)


def approval_markdown(question: Question) -> str:
    differences = verbatim(question.differences) if question.differences.strip() else "None are known."
    return "\n\n".join(
        [
            f"# {as_text(question.line)}",
            "To answer, open the page of this run, and choose *Resume*, which may be in its menu ⋮. A form asks for"
            " your decision, the reason, and your name.",
            _deadline(question),
            "## What differs from what is promoted",
            differences,
            f"## What is known of {as_text(question.id.short)}",
            question.dossier,
        ]
    )


def form_markdown(question: Question) -> str:
    """The text above the form: the question, the first differences, and where the rest is."""
    lines = question.differences.strip().splitlines()
    shown = "\n".join(line[:_SHOWN_CHARACTERS] for line in lines[:_SHOWN_LINES])
    return "\n\n".join(
        [
            f"**{as_text(question.line)}**",
            *([verbatim(shown)] if shown else []),
            "The artifact *approval* of this run has all that differs, and what is known of the model."
            f" {_deadline(question)}",
        ]
    )


def _deadline(question: Question) -> str:
    return f"Without an answer by {question.until:%Y-%m-%d %H:%M} UTC it is not promoted."
