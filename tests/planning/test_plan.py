"""Plans fit if they claim to, and more memory never makes a plan worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.engine.oracle import MARGIN_BYTES, Memory
from paddock.engine.parameters import Parameters
from paddock.errors import BadSetting, ConflictingConfiguration
from paddock.planning.footprint import Footprint, Layer
from paddock.planning.placement import (
    GPU_MARGIN_BYTES,
    MemoryShortfall,
    Target,
    host_shortfall_bytes,
    memory_shortfall,
    place,
)
from paddock.planning.plan import MIN_CONTEXT_TOKENS, Plan, PlanRequest, PredictMemory, longest_context, make_plan

MIB, GIB = 2**20, 2**30
LAYERS = 32
LONGEST = PlanRequest(None)
HEADS = 256  # elements of a key: with f16, 32 layers take 32 KiB for each token
MODEL = Footprint(
    layers=(Layer(3 * MIB, key_width=HEADS, value_width=HEADS),) * LAYERS,
    input_bytes=2 * MIB,
    embedding_bytes=MIB,
    output_bytes=2 * MIB,
    tied=False,
    window=0,
    embedding=512,
    widest=2048,
    vocabulary=32_000,
)
WEIGHTS = MODEL.weights_bytes


def engine(each_token: int = 32 * 1024, bend: float = 0.0, *, repacked_bytes: int = 0) -> PredictMemory:
    """Predict memory that grows with the context: linearly, or faster with `bend`."""

    def one(parameters: Parameters) -> Memory:
        tokens = parameters.n_ctx
        weights = WEIGHTS + repacked_bytes * parameters.use_mmap
        compute = 10 * MIB * parameters.n_ubatch // 512
        return Memory(weights, int(tokens * each_token + bend * tokens**1.2), compute, MIB, "engine")

    def predict(requested: Sequence[Parameters]) -> list[Memory]:
        return [one(parameters) for parameters in requested]

    return predict


def plan(
    predict: PredictMemory, target: int | Target, request: PlanRequest = LONGEST, *, trained: int | None = 32_768
) -> Plan:
    target = target if isinstance(target, Target) else Target(target)
    return make_plan(predict, target, request, trained_tokens=trained, model=MODEL, threads=2)


targets = st.builds(Target, st.integers(0, 4096 * MIB), st.lists(st.integers(0, 2048 * MIB), max_size=4).map(tuple))


@given(
    target=targets,
    each_token=st.integers(0, 256 * 1024),
    bend=st.floats(0, 5000),
    parallel=st.integers(1, 4),
    repacked=st.integers(0, 100 * MIB),
)
def test_a_plan_that_claims_to_fit_does_fit(
    target: Target, each_token: int, bend: float, parallel: int, repacked: int
) -> None:
    predict = engine(each_token, bend, repacked_bytes=repacked)
    made = plan(predict, target, PlanRequest(None, parallel))
    parameters, memory = made.parameters, made.memory
    if parameters.n_gpu_layers == 0:
        assert [memory] == predict([parameters])
    if not made.fits:
        assert made.missing_bytes > 0
        return
    assert made.missing_bytes == 0
    if parameters.n_gpu_layers == 0:
        assert memory.total_bytes + MARGIN_BYTES <= target.ram_bytes + 1000 * LAYERS
    offloaded = LAYERS + 1 if parameters.n_gpu_layers == -1 else parameters.n_gpu_layers
    split = parameters.tensor_split or ((offloaded,) if offloaded else ())
    assert sum(split) == offloaded
    if parameters.tensor_split:
        assert len(split) == len(target.vram_bytes)
    for room, layers in zip(target.vram_bytes, split, strict=False):
        if layers:
            cache = memory.kv_cache_bytes * max(layers - 1, 0) / LAYERS
            needed = 3 * MIB * max(layers - 1, 0) + cache + memory.compute_bytes + GPU_MARGIN_BYTES
            assert needed <= room
    (predicted,) = predict([parameters])
    assert memory_shortfall(MODEL, parameters, predicted, target) == MemoryShortfall(0, 0)


@given(target=targets, more=targets, bend=st.floats(0, 5000), context_tokens=st.sampled_from([None, 600, 8192]))
def test_more_memory_never_gives_a_worse_plan(
    target: Target, more: Target, bend: float, context_tokens: int | None
) -> None:
    predict = engine(bend=bend, repacked_bytes=50 * MIB)
    grown = tuple(map(sum, zip(target.vram_bytes, (*more.vram_bytes, 0, 0, 0, 0), strict=False)))
    larger = Target(target.ram_bytes + more.ram_bytes, (*grown, *more.vram_bytes[len(grown) :]))
    less, better = (
        plan(predict, target, PlanRequest(context_tokens)),
        plan(predict, larger, PlanRequest(context_tokens)),
    )
    if not less.fits:
        assert better.fits or better.missing_bytes <= less.missing_bytes
        return
    assert better.fits
    assert better.parameters.n_ctx >= less.parameters.n_ctx
    if better.parameters.n_ctx == less.parameters.n_ctx and larger.vram_bytes:
        assert better.parameters.n_gpu_layers in {-1, *range(max(less.parameters.n_gpu_layers, 0), LAYERS + 2)}
    assert better.parameters.n_ubatch >= less.parameters.n_ubatch or better.parameters.n_ctx > less.parameters.n_ctx


def test_the_trained_context_is_reduced_with_a_note_only_if_it_does_not_fit() -> None:
    assert plan(engine(), 4096 * MIB).parameters.n_ctx == 32_768
    made = plan(engine(), 600 * MIB)
    assert made.fits
    assert made.parameters.n_ctx == (600 * MIB - MARGIN_BYTES - 111 * MIB) // (32 * 1024) // 256 * 256
    assert made.given_up == (f"context: {made.parameters.n_ctx} tokens of the 32768 that it was trained for",)


def test_a_requested_context_is_never_reduced() -> None:
    made = plan(engine(), 600 * MIB, PlanRequest(16_384))
    assert (made.fits, made.parameters.n_ctx) == (False, 16_384)
    assert made.given_up == ("279.0 MiB are missing",)
    tokens = longest_context(engine(), Target(600 * MIB), made, MODEL)
    assert tokens is not None
    assert plan(engine(), 600 * MIB, PlanRequest(tokens)).fits
    assert not plan(engine(), 600 * MIB, PlanRequest(tokens + 256)).fits
    assert longest_context(engine(), Target(100 * MIB), made, MODEL) is None


def test_memory_mapping_is_given_up_first_the_batch_second_and_the_context_last() -> None:
    predict = engine(repacked_bytes=60 * MIB)
    everything = WEIGHTS + 60 * MIB + 11 * MIB + MARGIN_BYTES + 8192 * 32 * 1024
    roomy, tight, tighter, none = (plan(predict, everything - less * MIB, PlanRequest(8192)) for less in (0, 1, 61, 70))
    assert (roomy.fits, roomy.given_up, roomy.parameters.use_mmap) == (True, (), True)
    assert (tight.fits, tight.parameters.use_mmap, tight.parameters.n_ubatch) == (True, False, 512)
    assert tight.given_up[0].startswith("use_mmap: the file is read into memory")
    assert (tighter.fits, tighter.parameters.n_ubatch) == (True, 128)
    assert tighter.given_up[1].startswith("n_ubatch: 128 rather than 512")
    assert not none.fits


def test_contexts_beyond_the_trained_one_or_the_engines_limit_are_refused() -> None:
    with pytest.raises(ConflictingConfiguration, match="trained for 32768 tokens of context, and 40000"):
        plan(engine(), 4096 * MIB, PlanRequest(40_000))
    with pytest.raises(ConflictingConfiguration, match=r"8192 simultaneous requests .* each are 268435456 tokens"):
        PlanRequest(32_768, 8192)


def test_a_trained_context_beyond_the_engines_limit_is_reduced_to_the_limit() -> None:
    made = plan(engine(each_token=1), 4096 * MIB, PlanRequest(None, 64), trained=10_485_760)
    assert made.fits
    assert made.parameters.n_ctx == 2**27


def test_an_unknown_type_of_the_cache_is_refused() -> None:
    with pytest.raises(BadSetting, match="type_k is 'q9_9'"):
        plan(engine(), 4096 * MIB, PlanRequest(512, 1, "q9_9"))


@pytest.mark.parametrize(
    ("vram", "layers", "split"),
    [
        ((), 0, ()),
        ((4096 * MIB,), -1, ()),
        ((4096 * MIB, 4096 * MIB), -1, (33.0, 0.0)),
        ((GPU_MARGIN_BYTES + 10 * MIB + 20 * 14 * MIB,) * 2, -1, (20.0, 13.0)),
        ((GPU_MARGIN_BYTES + 10 * MIB + 2 * 14 * MIB,) * 2, 4, (2.0, 2.0)),
        ((1,), 0, ()),
    ],
    ids=["no GPU", "all on one", "all on the first", "shared by two", "a part of it on two", "none of it"],
)
def test_as_many_layers_as_fit_go_to_the_gpus(vram: tuple[int, ...], layers: int, split: tuple[float, ...]) -> None:
    made = plan(engine(), Target(8192 * MIB, vram), PlanRequest(11_264))  # 11 MiB of cache a layer
    assert made.parameters.n_gpu_layers == layers
    assert made.parameters.tensor_split == split
    assert bool(made.given_up) == (layers not in {0, -1} or vram == (1,))
    assert made.memory.weights_bytes == WEIGHTS


@pytest.mark.parametrize(
    ("layers", "split", "vram", "missing"),
    [
        (-1, (), (4096,), (0, 0)),
        (-1, (), (100,), (0, 360)),  # 32 layers of 14, an output of 2, 10 to compute
        (8, (), (108,), (0, 2)),  # the last 7 layers and the output
        (-1, (), (150, 450), (0, 0)),  # shared as the room is
        (-1, (1.0, 1.0), (150, 450), (0, 98)),  # 17 layers on the first
        (0, (), (1,), (0, 0)),
        (0, (), (), (0, 0)),
    ],
)
def test_the_memory_shortfall_of_given_parameters_is_computed_for_each_device(
    layers: int, split: tuple[float, ...], vram: tuple[int, ...], missing: tuple[int, int]
) -> None:
    parameters = Parameters(n_ctx=11_264, n_threads=1, n_gpu_layers=layers, tensor_split=split)
    (predicted,) = engine()([parameters])
    target = Target(8192 * MIB, tuple(room * MIB for room in vram), gpu_margin_bytes=0)
    assert memory_shortfall(MODEL, parameters, predicted, target) == MemoryShortfall(missing[0] * MIB, missing[1] * MIB)
    host = 2 * MIB + MIB + 10 * MIB + MARGIN_BYTES + (33 - (33 if layers == -1 else layers)) * 14 * MIB
    if layers == 0:
        host += 2 * MIB - 14 * MIB  # the output is none of the layers
    assert memory_shortfall(MODEL, parameters, predicted, replace(target, ram_bytes=host)).host_bytes == 0
    assert memory_shortfall(MODEL, parameters, predicted, replace(target, ram_bytes=host - MIB)).host_bytes == MIB


def test_weights_on_a_gpu_are_not_repacked_and_a_tied_embedding_counts_twice() -> None:
    predict = engine(repacked_bytes=64 * MIB)
    whole, half, none = (
        plan(
            predict, Target(8192 * MIB, (GPU_MARGIN_BYTES + 10 * MIB + room,)), PlanRequest(11_264)
        ).memory.weights_bytes
        for room in (4096 * MIB, 16 * 14 * MIB + 2 * MIB, 0)
    )
    assert (whole, half, none) == (WEIGHTS, WEIGHTS + 32 * MIB, WEIGHTS + 64 * MIB)
    tied = replace(MODEL, tied=True)
    made = make_plan(engine(), Target(GIB, (GIB,)), PlanRequest(512), trained_tokens=512, model=tied, threads=1)
    assert made.memory.weights_bytes == WEIGHTS + MODEL.embedding_bytes


@pytest.mark.parametrize("vram", [0, 16 * 14 * MIB + 2 * MIB])
def test_the_gpu_copy_of_a_tied_embedding_takes_no_host_memory(vram: int) -> None:
    tied = replace(MODEL, tied=True)
    target = Target(8192 * MIB, (GPU_MARGIN_BYTES + 10 * MIB + vram,))
    with_copy = replace(target, vram_bytes=(target.vram_bytes[0] + MODEL.embedding_bytes,))
    whole, predicted = (
        Parameters(n_ctx=11_264, n_threads=1),
        Memory(WEIGHTS, 352 * MIB, 10 * MIB, MIB, "engine", ("CUDA0",)),
    )
    copied = replace(predicted, weights_bytes=WEIGHTS + MODEL.embedding_bytes)
    placed, plain = place(tied, whole, copied, with_copy), place(MODEL, whole, predicted, target)
    assert placed is not None
    assert plain is not None
    assert placed.weights_bytes == plain.weights_bytes + (MODEL.embedding_bytes if vram else 0)
    lacks = host_shortfall_bytes(MODEL, whole, predicted, replace(target, ram_bytes=0))
    assert host_shortfall_bytes(tied, whole, copied, replace(with_copy, ram_bytes=0)) == lacks


def test_layers_for_multi_token_prediction_are_counted_but_take_no_memory() -> None:
    ahead = replace(MODEL, layers=(*MODEL.layers, Layer(0)))
    target = Target(8192 * MIB, (GPU_MARGIN_BYTES + 10 * MIB + 2 * 14 * MIB,) * 2)
    plain = make_plan(engine(), target, PlanRequest(11_264), trained_tokens=None, model=MODEL, threads=1).parameters
    more = make_plan(engine(), target, PlanRequest(11_264), trained_tokens=None, model=ahead, threads=1).parameters
    assert more.n_gpu_layers == plain.n_gpu_layers + 1
    (predicted,) = engine()([more])
    assert memory_shortfall(ahead, more, predicted, target) == MemoryShortfall(0, 0)


def test_the_smallest_context_is_tried_last() -> None:
    made = plan(engine(), WEIGHTS + 11 * MIB + MARGIN_BYTES + MIN_CONTEXT_TOKENS * 32 * 1024)
    assert (made.fits, made.parameters.n_ctx) == (True, MIN_CONTEXT_TOKENS)
