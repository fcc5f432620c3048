"""The format of a history line, and which snapshots a rollback may go back to."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.model.names import Revision
from paddock.model.reference import SnapshotId, Variant
from paddock.store.history import Promoted, Promotion, earlier_of_model, earlier_of_variant
from tests.support.stores import MODEL, Q4, Q8, A, B, C

_FIRST, _LAST = datetime(1970, 1, 1), datetime(2199, 12, 31)  # noqa: DTZ001 - bounds have no time zone

revisions = st.text("0123456789abcdef", min_size=40, max_size=40).map(Revision)
variants = st.sampled_from([Q8, Q4, Variant("Q8_0-mmproj"), Variant("deep-model.v2")])
promotions = st.builds(
    Promotion,
    operation=st.text(),
    variant=variants,
    revision=st.none() | revisions,
    previous=st.none() | revisions,
    default=st.none() | variants,
    previous_default=st.none() | variants,
    at=st.datetimes(_FIRST, _LAST, timezones=st.just(UTC)),
    reason=st.text(),
    by=st.none() | st.text(),
    rollback=st.booleans(),
    target=st.none() | variants,
    forced=st.booleans(),
    failed_gates=st.lists(st.text()).map(tuple),
)


@given(promotions)
def test_a_promotion_round_trips_through_json(promotion: Promotion) -> None:
    assert Promotion.from_json(json.loads(json.dumps(promotion.to_json()))) == promotion


SOUND = Promotion("1", Q8, A, None, Q8, None, datetime(2026, 1, 1, tzinfo=UTC), "why", None).to_json()


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"revision": "main"},
        {"revision": A, "previous": None, "at": "2026-01-01", "reason": "of an older format", "by": None},
        SOUND | {"revision": "main"},
        SOUND | {"previous": "../x"},
        SOUND | {"variant": "../x"},
        SOUND | {"variant": "best"},
        SOUND | {"default": "a--b"},
        SOUND | {"target": "latest"},
        SOUND | {"at": "yesterday"},
        SOUND | {"failed_gates": "kl_ratio"},
        SOUND | {"failed_gates": [1]},
        {key: value for key, value in SOUND.items() if key != "operation"},
    ],
)
def test_a_malformed_line_raises_value_error(value: object) -> None:
    with pytest.raises(ValueError, match=r"not a|isoformat"):
        Promotion.from_json(value)


def test_a_line_from_before_there_were_gates_is_read_as_not_forced() -> None:
    before = {key: value for key, value in SOUND.items() if key not in {"forced", "failed_gates"}}
    assert Promotion.from_json(before) == Promotion.from_json(SOUND)
    assert Promotion.from_json(before).why == "why"


@pytest.mark.parametrize(
    ("failed", "why"),
    [
        (["kl_ratio", "agreement"], "why (forced, although held back by kl_ratio, agreement)"),
        ([], "why (forced, without a comparison)"),
    ],
)
def test_a_forced_promotion_says_so_beside_its_reason(failed: list[str], why: str) -> None:
    assert Promotion.from_json(SOUND | {"forced": True, "failed_gates": failed}).why == why


@pytest.mark.parametrize(
    ("moves", "candidate", "default", "replaced"),
    [
        ("", (B, Q8), True, None),
        ("a8", (B, Q8), True, (A, Q8)),
        ("a8", (A, Q8), True, None),
        ("a8", (A, Q4), True, (A, Q8)),
        ("a8", (A, Q4), False, None),
        ("a8 +a4", (B, Q4), True, (A, Q4)),
        ("a8 +a4", (A, Q4), True, None),
    ],
    ids=[
        "the first of a model",
        "another revision",
        "what is promoted",
        "another variant, as the default",
        "another variant, beside the default",
        "another revision of a variant that is not the default",
        "a promoted variant, as the default",
    ],
)
def test_a_promotion_replaces_its_variants_snapshot_or_else_the_default(
    moves: str, candidate: tuple[Revision, Variant], default: bool, replaced: tuple[Revision, Variant] | None
) -> None:
    state = Promoted(MODEL)
    for line in lines_of(moves):
        state = state.after(line)
    found = state.replaced_by(SnapshotId(MODEL, *candidate), default=default)
    assert found == (SnapshotId(MODEL, *replaced) if replaced else None)


def lines_of(moves: str) -> list[Promotion]:
    """`a8`: revision A of Q8_0 becomes the default; `+a4`: A of Q4_K_M is promoted beside it; `-8`: Q8_0 is removed;
    `<` before a move: it is a rollback."""
    revisions, variants = {"a": A, "b": B, "c": C}, {"8": Q8, "4": Q4}
    lines, state = list[Promotion](), Promoted(MODEL)
    for number, move in enumerate(moves.split()):
        bare = move.lstrip("<+-")
        variant = variants[bare[-1]]
        revision = None if "-" in move else revisions[bare[0]]
        default = state.default if "+" in move else variant
        if revision is None:
            default = None if state.default == variant else state.default
        line = Promotion(
            operation=str(number),
            variant=variant,
            revision=revision,
            previous=state.revisions.get(variant),
            default=default,
            previous_default=state.default,
            at=datetime.now(UTC),
            reason="",
            by=None,
            rollback="<" in move,
        )
        state = state.after(line)
        lines.append(line)
    return lines


def ids_of(text: str) -> list[SnapshotId]:
    return [SnapshotId(MODEL, {"a": A, "b": B, "c": C}[name[0]], {"8": Q8, "4": Q4}[name[1]]) for name in text.split()]


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ("", ""),
        ("a8", ""),
        ("a8 b8", "a"),
        ("a8 b8 a8", "ba"),
        ("a8 b8 c8", "ba"),
        ("a8 b8 c8 <b8", "a"),
        ("a8 b8 c8 <b8 <a8", ""),
        ("a8 b8 c8 <b8 c8", "ba"),
        ("a8 b8 <c8 a8", "cba"),
        ("a8 a4 b4 b8 c4", "a"),
        ("a8 a4 +b8", "a"),
        ("a8 b8 a4 +<a8", ""),
        ("a8 b8 -8", "a"),
        ("a8 b8 -8 c8", "ba"),
    ],
)
def test_a_rollback_of_a_variant_goes_back_through_its_own_revisions(moves: str, expected: str) -> None:
    revision_of = {"a": A, "b": B, "c": C}
    assert earlier_of_variant(lines_of(moves), Q8) == [revision_of[letter] for letter in expected]


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ("", ""),
        ("a8", ""),
        ("+a8", ""),
        ("a8 b8", "a8"),
        ("a8 b8 c8 <b8", "a8"),
        ("a8 b8 c8 <b8 <a8", ""),
        ("a8 a4", "a8"),
        ("a8 a4 <a8", ""),
        ("a8 a4 <a8 b8", "a8"),
        ("a8 +a4 b8", "a8"),
        ("a8 +a4", ""),
        ("a8 b8 a4", "b8 a8"),
        ("a8 b8 a4 <b8", "a8"),
        ("a8 a4 b8 b4", "b8 a4 a8"),
        ("a8 a4 +b8", "a8"),
        ("a8 a4 +b8 <b8", ""),
        ("a8 b4 a4 +c8 <b4 <c8", ""),
        ("a8 a4 +b8 +<a8", "a8"),
        ("a8 a4 -4 b4", "a4 a8"),
    ],
)
def test_a_rollback_of_a_model_goes_back_through_its_defaults(moves: str, expected: str) -> None:
    assert earlier_of_model(lines_of(moves), MODEL) == ids_of(expected)


@given(st.lists(promotions, max_size=8))
def test_the_promoted_state_follows_from_the_lines_alone(lines: list[Promotion]) -> None:
    state = Promoted(MODEL)
    for line in lines:
        state = state.after(line)
    last = {line.variant: line.revision for line in lines}
    assert state.revisions == {variant: revision for variant, revision in last.items() if revision is not None}
    assert state.default is None or state.default in state.revisions
    assert all(state.holds(id) and state.of(id.variant) == id for id in state.ids)
    assert state.default_id in {*state.ids, None}
