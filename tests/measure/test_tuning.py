"""The race between settings: what runs, what wins, and what is never given away for speed."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.engine.oracle import MARGIN_BYTES, measure_memory
from paddock.engine.parameters import Parameters
from paddock.errors import DoesNotFit
from paddock.measure.race import NOISE, Runner, knob_runners
from paddock.measure.tuning import KNOBS, Tuning, tune
from paddock.model.hardware import this_machine
from tests.support.gguf import U32, tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama().set("llama.context_length", U32, 1024).write(tmp_path_factory.mktemp("model") / "m.gguf")


@pytest.fixture(scope="module")
def slowed(tiny: Path) -> Tuning:
    """A race around a plan that is slow on purpose: prompts one token at a time."""
    return tune(tiny, Parameters(n_ctx=512, n_threads=1, n_ubatch=1), budget_s=4)


def test_a_plan_that_is_slow_on_purpose_is_beaten(slowed: Tuning) -> None:
    for row in slowed.rows():
        print(*row)
    assert slowed.turns
    assert slowed.gain > 1 + NOISE
    assert slowed.after.turns == slowed.turns
    assert slowed.applied(slowed.plan) == replace(slowed.plan, **slowed.turns)


def test_the_plan_s_own_always_run_and_every_runner_s_fate_is_told(slowed: Tuning) -> None:
    assert slowed.trials[0].turns == {}
    assert slowed.trials[0].rounds > 0
    assert all(trial.rounds or trial.why for trial in slowed.trials)


def test_a_tuning_survives_json_and_pickling(slowed: Tuning) -> None:
    assert Tuning.from_json(json.loads(json.dumps(slowed.to_json()))) == slowed
    assert pickle.loads(pickle.dumps(slowed)) == slowed


def test_a_document_that_turns_something_else_is_refused(slowed: Tuning) -> None:
    document = slowed.to_json() | {"turns": {"n_ctx": 1}}
    with pytest.raises(ValueError, match="no knob"):
        Tuning.from_json(document)


def test_what_somebody_set_otherwise_stays(slowed: Tuning) -> None:
    turns = {"n_ubatch": 64, "n_threads": 2}
    tuning = replace(slowed, turns=turns)
    theirs = replace(slowed.plan, n_ubatch=16, n_ctx=256)
    assert tuning.applied(theirs) == replace(theirs, n_threads=2)
    elsewhere = replace(slowed.plan, n_gpu_layers=7)
    assert tuning.applied(elsewhere) == elsewhere


def test_with_no_time_at_all_the_plan_s_own_stay(tiny: Path) -> None:
    tuning = tune(tiny, Parameters(n_ctx=256, n_threads=1), budget_s=0)
    assert tuning.turns == {}
    assert tuning.before == tuning.after
    assert tuning.after.decode_tok_per_s
    assert {trial.why for trial in tuning.trials[1:]} == {"no time"}


def test_a_setting_that_the_engine_refuses_is_out_and_the_race_goes_on(slowed: Tuning) -> None:
    (refused,) = [trial for trial in slowed.trials if trial.turns.get("type_k")]  # for such heads there is no q8_0
    assert refused.rounds == 0
    assert refused.why == "the engine refuses it"
    assert sum(trial.rounds > 0 for trial in slowed.trials) > 2


def test_a_model_that_does_not_fit_is_not_raced(model: Path) -> None:
    small = replace(this_machine(), ram_available_bytes=MARGIN_BYTES + 100 * 2**20)
    with pytest.raises(DoesNotFit):
        tune(model, Parameters(n_ctx=512, n_threads=1), machine=small, budget_s=5)


def test_a_setting_that_takes_more_than_there_is_does_not_start(tiny: Path) -> None:
    plan = Parameters(n_ctx=1024, n_threads=1, n_ubatch=16)
    needed = measure_memory(tiny, context_tokens=1024, parameters=plan).total_bytes
    tight = replace(this_machine(), ram_available_bytes=needed + MARGIN_BYTES)
    tuning = tune(tiny, plan, machine=tight, budget_s=1)
    wider = [trial.why for trial in tuning.trials if trial.turns.get("n_ubatch", 0) > 16]
    assert wider
    assert set(wider) == {"does not fit"}


@pytest.mark.parametrize("plan", ["f16", "q8_0", "q4_0", "f32"])
def test_a_cache_is_never_made_coarser_than_q8_0_nor_larger(plan: str) -> None:
    start = Parameters(n_ctx=1024, n_threads=2, type_k=plan, type_v=plan)
    turned = {runner.turns["type_k"] for runner in runners(start) if "type_k" in runner.turns}
    assert turned == (set() if plan.startswith("q") else {"q8_0"})


def runners(plan: Parameters, *, cores: int = 4) -> list[Runner]:
    return list(knob_runners(plan, 256, cores=cores, logical=2 * cores))


def test_every_knob_is_turned_by_somebody_and_nothing_else_is() -> None:
    turned = {name for runner in runners(Parameters(n_ctx=4096, n_threads=4)) for name in runner.turns}
    assert turned == set(KNOBS)


def test_every_runner_is_another_and_none_is_the_plan() -> None:
    plan = Parameters(n_ctx=4096, n_threads=4)
    wanted = [replace(plan, **runner.turns) for runner in runners(plan)]
    assert len({str(one.to_json()) for one in wanted}) == len(wanted)
    assert plan not in wanted
