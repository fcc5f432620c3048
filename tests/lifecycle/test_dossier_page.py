"""The page of a dossier begins with the verdict, shows nothing as a fact that is none, and escapes untrusted text."""

from __future__ import annotations

import json
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest
from markdown_it import MarkdownIt

from paddock.lifecycle import dossier
from paddock.lifecycle.dossier.compose import compose
from paddock.lifecycle.dossier.facts import DossierFacts, changes_of
from paddock.model.artifact import MAX_TEXT
from paddock.model.finding import Finding, Severity, Verdict
from paddock.model.reference import Variant
from paddock.store.history import Promoted
from tests.support.dossier_facts import (
    BEFORE,
    BENCHMARK,
    CHAT,
    COST,
    EVERYTHING,
    GATES,
    MANIFEST,
    NOTHING,
    PROMOTION,
    QUALITY,
    VALIDATION,
    VARIANT,
    gate,
)

SCHEMA = Path(__file__).parents[2] / "infra" / "dossier.schema.json"
BUSY = replace(BENCHMARK, doubts=("other processes used 1.8 of 2 cores",))
BUSY_COST = replace(COST, reliable=False, doubts=BUSY.doubts)
WARNED = replace(
    VALIDATION,
    verdict=Verdict.WARN,
    findings=(Finding("template.changed", Severity.WARN, "it differs", "tokenizer.chat_template", "compare the two"),),
)
REJECTED = replace(
    VALIDATION,
    verdict=Verdict.REJECT,
    findings=(Finding("gguf.tensor.nan", Severity.REJECT, "block 3 holds NaN", "blk.3.attn_q"),),
)
TOO_LARGE = replace(
    VALIDATION,
    verdict=Verdict.REJECT,
    findings=(Finding("compatibility.memory", Severity.REJECT, "1.0 GiB are missing", "memory", "take Q2_K"),),
)
HELD = replace(GATES, gates=(*GATES.gates, gate("agreement", False, reason="McNemar: p = 0.001")))
FORCED = replace(PROMOTION, reason="on trial", forced=True, failed_gates=("agreement",))
FIRST = replace(PROMOTION, previous=None, previous_default=None)
UNDECIDED = replace(GATES, gates=(*GATES.gates, gate("prefill", None)))
ALONE = replace(GATES, promoted=None, reference=None, gates=(gate("audit"),))
BROKEN = replace(QUALITY, kl_divergence=replace(QUALITY.kl_divergence, mean=nan, max=nan))


def facts(**changes: Any) -> DossierFacts:
    return replace(EVERYTHING, **changes)


@pytest.mark.parametrize(
    ("snapshot", "question", "state", "answer", "detail"),
    [
        (EVERYTHING, "safe", "good", "yes", "passed every check"),
        (facts(validation=WARNED), "safe", "warning", "yes, with 1 warning", "template.changed"),
        (facts(validation=REJECTED), "safe", "bad", "no", "block 3 holds NaN"),
        (facts(validation=TOO_LARGE), "safe", "good", "yes", "passed every check"),
        (facts(damage="model.gguf was found damaged"), "safe", "bad", "no", "found damaged"),
        (NOTHING, "safe", "warning", "not fully checked", "not validated since"),
        (EVERYTHING, "fits", "good", "yes", "4.8 GiB with 4,096 tokens"),
        (facts(validation=replace(VALIDATION, target="rtx-4090")), "fits", "good", "yes", "on rtx-4090"),
        (facts(validation=replace(VALIDATION, target="any")), "fits", "unknown", "not known", "no machine"),
        (facts(validation=replace(VALIDATION, given_up=("cut",))), "fits", "warning", "yes", "cut"),
        (facts(validation=TOO_LARGE), "fits", "bad", "no", "take Q2_K"),
        (NOTHING, "fits", "unknown", "not known", "not validated"),
        (EVERYTHING, "speed", "good", "38.4 tokens/s", "prefill 412.5 tokens/s"),
        (facts(gates=None), "speed", "neutral", "38.4 tokens/s", ""),
        (facts(gates=HELD), "quality", "bad", "94.2% same tokens", ""),
        (facts(gates=None), "quality", "neutral", "94.2% same tokens", ""),
        (facts(benchmark=BUSY), "speed", "unknown", "not known", "other processes used 1.8 of 2 cores"),
        (facts(benchmark=replace(BENCHMARK, schema=2)), "speed", "unknown", "not known", "older version"),
        (NOTHING, "speed", "unknown", "not measured", ""),
        (EVERYTHING, "quality", "good", "94.2% same tokens", "compared with Q8_0@c0ffee00"),
        (facts(quality=BROKEN), "quality", "bad", "broken", "not numbers"),
        (NOTHING, "quality", "unknown", "not measured", ""),
        (EVERYTHING, "cost", "neutral", "2.53 for a million tokens", "0.236 for prompts, at 0.350 an hour on AMD EPYC"),
        (facts(costs=(replace(COST, price_in=None, price_out=None),)), "cost", "unknown", "not known", "no price"),
        (facts(costs=(BUSY_COST,)), "cost", "unknown", "not known", "not reliable"),
        (NOTHING, "cost", "unknown", "not known", "not measured"),
        (EVERYTHING, "comparison", "good", "passed", "3 gates passed against Q4_K_M@dead0000"),
        (facts(gates=HELD), "comparison", "bad", "held back by agreement", "McNemar: p = 0.001"),
        (facts(gates=HELD, history=(FORCED,)), "comparison", "bad", "held back by agreement", "all the same: on trial"),
        (facts(gates=UNDECIDED), "comparison", "warning", "passed", "not decided: prefill"),
        (
            facts(gates=replace(UNDECIDED, undecided_blocks=True)),
            "comparison",
            "bad",
            "held back by prefill",
            "holds the bound",
        ),
        (facts(gates=ALONE), "comparison", "good", "nothing was there", "1 gate"),
        (NOTHING, "comparison", "unknown", "not compared", ""),
        (facts(gates=None), "comparison", "unknown", "not compared", "without a comparison"),
        (facts(gates=None, history=(FIRST,)), "comparison", "good", "nothing was there", "nothing of the model"),
    ],
)
def test_each_question_is_answered(snapshot: DossierFacts, question: str, state: str, answer: str, detail: str) -> None:
    given = getattr(compose(snapshot).verdicts, question)
    assert (given.state, given.answer) == (state, answer)
    assert detail in given.detail


def test_an_answer_that_is_not_known_names_the_command_that_finds_it_out() -> None:
    verdicts = compose(NOTHING).verdicts
    commands = [getattr(verdicts, name).command for name in ("safe", "fits", "speed", "quality", "cost", "comparison")]
    name = MANIFEST.id.short
    assert commands == [
        f"paddock onboard {name} --no-promote",
        f"paddock onboard {name} --no-promote",
        f"paddock bench {name}",
        f"paddock quality {name}",
        f"paddock bench {name}",
        f"paddock compare {name}",
    ]


@pytest.mark.parametrize(
    ("snapshot", "line"),
    [
        (EVERYTHING, "**Promoted, as the model's default.** Q4_K_M, 4.1 GiB, commit `c0ffee00`, licence apache-2.0."),
        (facts(promoted=Promoted(MANIFEST.model, None, {VARIANT: MANIFEST.revision})), "**Promoted.**"),
        (facts(gates=HELD), "**Promoted, as the model's default, although gates hold it back.**"),
        (facts(gates=HELD, promoted=Promoted(MANIFEST.model)), "**Not promoted: the gates hold it back.**"),
        (NOTHING, "**Not promoted.**"),
    ],
)
def test_the_page_begins_with_its_state_and_the_verdict(snapshot: DossierFacts, line: str) -> None:
    title, state, verdict = dossier.markdown(compose(snapshot)).split("\n\n")[:3]
    assert title == f"# {MANIFEST.id.name}"
    assert state.startswith(line)
    assert [row.split(" | ")[0] for row in verdict.splitlines()[2:]] == [
        "| Is it safe?",
        "| Does it fit?",
        "| How fast?",
        "| How good?",
        "| What does it cost?",
        "| Against what was there?",
    ]


def test_a_forced_promotion_is_marked_so() -> None:
    page = dossier.markdown(compose(facts(gates=HELD, history=(FORCED,))))
    assert "| on trial (**forced**, although held back by agreement) |" in page


def test_figures_that_cannot_be_believed_are_never_shown_as_facts() -> None:
    page = dossier.markdown(compose(facts(benchmark=BUSY, costs=(BUSY_COST,))))
    before, after = page.split("## Benchmark")
    assert "2.53" not in after.replace("not reliable: 2.53", "")
    assert "38.4 tokens/s" not in before
    assert "**Not reliable: other processes used 1.8 of 2 cores.**" in after
    assert "| test | not reliable | spread |" in after
    assert "from the plan" in before, "the parameters are not those of the benchmark"


def test_a_figure_that_is_not_a_number_is_named_so_and_is_null() -> None:
    document = compose(facts(quality=BROKEN, gates=replace(GATES, gates=(gate(candidate=nan, ratio=nan),))))
    assert document.quality is not None
    assert (document.quality.kl_mean.value, document.quality.kl_max) == (None, None)
    assert "| KL divergence, mean | not a number |" in dossier.markdown(document)
    assert "NaN" not in document.to_json()


HOSTILE = "</td>|x\n# [a](http://evil.example) <img src=x> ![b](c) **bold** `\x1b[2J\u202e \ud800 https://evil.example"


def with_text(text: str) -> DossierFacts:
    """Facts with `text` wherever one comes from a file, a person or another machine."""
    assert VALIDATION.model is not None
    short = text[:MAX_TEXT]  # a manifest has no longer one
    return DossierFacts(
        manifest=replace(MANIFEST, licence=short, engine_version=short, quantization=short),
        promoted=EVERYTHING.promoted,
        history=(replace(FORCED, reason=text, by=text, failed_gates=(text,)),),
        damage="",
        validation=replace(
            VALIDATION,
            findings=(Finding(text, Severity.WARN, text, text, text),),
            target=text,
            given_up=(text,),
            model=replace(VALIDATION.model, architecture=text),
        ),
        chat=replace(CHAT, origin=text, why=text, stop=(text,)),
        benchmark=replace(
            BENCHMARK, doubts=(text,), engine=text, machine=replace(BENCHMARK.machine, cpu=text, why_no_gpu=text)
        ),
        quality=replace(QUALITY, reference=text, measured_at=text),
        gates=replace(GATES, promoted=text, gates=(gate(text, False, bound=text, candidate=text, reason=text),)),
        costs=(replace(COST, machine=text, price_source=text, doubts=(text,)),),
    )


def test_untrusted_text_becomes_no_markup() -> None:
    def parse(page: str) -> tuple[list[str], set[str]]:
        tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(page)
        return [token.type for token in tokens], {child.type for token in tokens for child in token.children or []}

    page = dossier.markdown(compose(with_text(HOSTILE)))
    blocks, inline = parse(page)
    assert blocks == parse(dossier.markdown(compose(with_text("text"))))[0]
    assert inline == {"text", "strong_open", "strong_close", "code_inline"}  # no link, image, HTML
    assert all(character.isprintable() or character == "\n" for character in page)


def test_a_long_text_is_cut() -> None:
    assert len(dossier.markdown(compose(with_text("x" * 1_000_000)))) < 60_000


def test_the_schema_in_the_repository_is_that_of_the_code() -> None:
    assert SCHEMA.read_text() == dossier.schema_text(), "write schema_text() of paddock.lifecycle.dossier to it"


@pytest.mark.parametrize(
    "snapshot",
    [EVERYTHING, NOTHING, facts(gates=HELD, quality=BROKEN, benchmark=BUSY), with_text(HOSTILE)],
    ids=["everything", "nothing", "not believed", "hostile"],
)
def test_a_document_is_valid_by_the_schema_and_is_read_back(snapshot: DossierFacts) -> None:
    document = compose(snapshot)
    text = document.to_json()
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(json.loads(text))
    assert dossier.DossierDocument.from_json(text) == document
    assert json.loads(text)["schema"] == 1


def test_only_the_promotions_that_concern_the_snapshot_are_shown() -> None:
    id, q8 = MANIFEST.id, Variant("Q8_0")
    first = replace(PROMOTION, revision=BEFORE, previous=None, default=VARIANT, previous_default=None)
    other = replace(PROMOTION, variant=q8, previous=None, default=q8, previous_default=VARIANT)
    newer = replace(PROMOTION, default=q8, previous_default=q8)
    back = replace(newer, previous=id.revision, default=VARIANT, previous_default=q8)
    again = replace(back, default=VARIANT, previous_default=VARIANT)
    assert list(changes_of(id, [first, other, newer, back, again])) == [newer, back]
