"""Create the Prefect artifact of an approval: what a person is asked, the differences, and the begin of the dossier."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from paddock.lifecycle.promote.approval import Question
from paddock.model.markdown import as_text, verbatim
from tasks.subject import ArtifactSubject


def approval(subject: ArtifactSubject, question: Question) -> None:
    """The question, how to answer it, what differs, and what is known of the snapshot, as Markdown."""
    create_markdown_artifact(
        key=subject.key("approval"), markdown=approval_markdown(question), description=as_text(question.line)
    )


def approval_markdown(question: Question) -> str:
    differences = verbatim(question.differences) if question.differences.strip() else "None are known."
    return "\n\n".join(
        [
            f"# {as_text(question.line)}",
            how_to_answer(question),
            "## What differs from what is promoted",
            differences,
            f"## What is known of {as_text(question.id.short)}",
            question.dossier,
        ]
    )


def how_to_answer(question: Question) -> str:
    return (
        "To answer, press **Resume** on the page of this run: choose `approve` or `decline`, say why, and give your"
        f" name. Without an answer within {question.days:g} days it is not promoted. No process waits meanwhile."
    )
