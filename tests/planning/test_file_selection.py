"""The selection of files to download from a repository, and the reasons given for the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.errors import FileNotInRevision, MissingShard, ModelRejected, NoGguf, PaddockError
from paddock.model.artifact import Listing, RepositoryFile
from paddock.model.names import ModelName, Revision, Sha256, check_distinct, parse_repository_path
from paddock.model.quantization import PREFERRED
from paddock.planning.companions import MAX_COMPANION_BYTES
from paddock.planning.file_selection import FileSelection, select_files

GIB = 2**30
REPOSITORY = "org/model-GGUF"


def listing(*paths: str, sizes: dict[str, int] | None = None, model: str = REPOSITORY) -> Listing:
    """A repository with these files: a GiB each for weights, a KiB for the others, unless `sizes` says otherwise."""

    def size(path: str) -> int:
        return (sizes or {}).get(path, GIB if ".gguf" in path.lower() else 1024)

    files = tuple(RepositoryFile(path, size(path), Sha256("a" * 64), None) for path in sorted(paths))
    return Listing(ModelName.parse(model), Revision("b" * 40), files, None)


def paths_of(choice: FileSelection) -> list[str]:
    return [file.path for file in choice.files]


def shards(stem: str, count: int, *, without: int = 0) -> list[str]:
    return [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1) if number != without]


ALL = ["Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "BF16", "IQ4_XS", "UD-Q8_K_XL"]


@pytest.mark.parametrize("best", range(len(PREFERRED)), ids=PREFERRED)
def test_the_most_preferred_quantization_is_chosen_whatever_else_is_available(best: int) -> None:
    there = [name for name in ALL if name not in PREFERRED[:best]]
    choice = select_files(listing(*(f"model-{name}.gguf" for name in there)))
    assert choice.quantization == PREFERRED[best]
    assert choice.model_files == (f"model-{PREFERRED[best]}.gguf",)
    assert paths_of(choice) == list(choice.model_files)


def test_without_a_preferred_quantization_the_largest_model_is_chosen() -> None:
    sizes = {"m-Q2_K.gguf": 3, "m-Q3_K_M.gguf": 5, "m-IQ4_XS.gguf": 4}
    choice = select_files(listing(*sizes, sizes=sizes))
    assert choice.quantization == "Q3_K_M"
    assert [one.quantization for one in choice.candidates] == ["Q3_K_M", "IQ4_XS", "Q2_K"]


@pytest.mark.parametrize(
    ("dynamic", "plain"),
    [("UD-Q8_K_XL", "Q8_0"), ("UD-Q6_K_XL", "Q4_K_S"), ("UD-Q8_0", "Q8_0"), ("UD-Q4_K_M", "Q4_K_S")],
)
def test_a_dynamic_quantization_is_never_taken_for_the_plain_one(dynamic: str, plain: str) -> None:
    there = listing(f"m-{dynamic}.gguf", f"m-{plain}.gguf", sizes={f"m-{dynamic}.gguf": 2 * GIB})
    assert select_files(there).quantization == plain
    assert select_files(there, quantization=dynamic).quantization == dynamic


def test_the_case_of_names_does_not_matter() -> None:
    there = listing("MODEL.q4_k_m.GGUF", "model.q8_0.Gguf")
    assert select_files(there).model_files == ("model.q8_0.Gguf",)
    assert select_files(there, quantization="Q4_k_M").model_files == ("MODEL.q4_k_m.GGUF",)


def test_models_at_the_top_of_a_repository_come_before_those_in_directories() -> None:
    assert select_files(listing("Q8_0/model.gguf", "model-Q4_K_M.gguf")).quantization == "Q4_K_M"
    assert select_files(listing("Q8_0/model.gguf", "Q4_K_M/model.gguf")).model_files == ("Q8_0/model.gguf",)


def test_all_shards_of_a_split_model_are_fetched_in_order() -> None:
    parts = shards("Q8_0/model-Q8_0", 12)
    choice = select_files(listing(*parts, "Q4_K_M/model-Q4_K_M.gguf", "config.json"))
    assert choice.model_files == tuple(parts)
    assert paths_of(choice) == ["config.json", *parts]
    first = choice.candidates[0]
    assert (first.file, first.shards, first.size_bytes) == (parts[0], 12, 12 * GIB)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_split_model_with_a_missing_shard_is_skipped_with_the_reason(missing: int) -> None:
    choice = select_files(listing(*shards("m-Q8_0", 3, without=missing), "m-Q4_K_M.gguf"))
    assert choice.quantization == "Q4_K_M"
    assert {one.quantization: one.reason for one in choice.candidates}["Q8_0"] == "1 of 3 shards are missing"


@pytest.mark.parametrize("requested", ["auto", "Q8_0"])
def test_a_missing_shard_is_named_if_no_other_model_is_available(requested: str) -> None:
    with pytest.raises(MissingShard, match=r"m-Q8_0-00002-of-00003\.gguf \(1 of 3 shards missing\)"):
        select_files(listing(*shards("m-Q8_0", 3, without=2)), quantization=requested)


def test_a_complete_model_is_preferred_to_an_incomplete_one_of_the_same_quantization() -> None:
    there = listing(*shards("m-Q8_0", 3, without=2), "whole/m-Q8_0.gguf")
    assert select_files(there).model_files == ("whole/m-Q8_0.gguf",)
    assert select_files(there, quantization="Q8_0").model_files == ("whole/m-Q8_0.gguf",)


def test_a_projector_is_never_the_model_and_is_added_on_request() -> None:
    there = listing("m-Q4_K_M.gguf", "mmproj-Q8_0.gguf", "mmproj-F16.gguf")
    assert select_files(there).model_files == ("m-Q4_K_M.gguf",)
    assert paths_of(select_files(there)) == ["m-Q4_K_M.gguf"]
    with_projector = select_files(there, projector=True)
    assert with_projector.model_files == ("m-Q4_K_M.gguf",)
    assert paths_of(with_projector) == ["m-Q4_K_M.gguf", "mmproj-F16.gguf"]
    assert [one.file for one in with_projector.candidates] == ["m-Q4_K_M.gguf"]


def test_a_projector_that_is_named_is_not_fetched_twice_and_is_not_the_model() -> None:
    there = listing("m-Q4_K_M.gguf", "mmproj-Q8_0.gguf", "mmproj-F16.gguf")
    choice = select_files(there, files=["mmproj-Q8_0.gguf", "m-Q4_K_M.gguf"], projector=True)
    assert paths_of(choice) == ["mmproj-Q8_0.gguf", "m-Q4_K_M.gguf"]
    assert choice.model_files == ("m-Q4_K_M.gguf",)
    assert choice.quantization == "Q4_K_M"


def test_requesting_a_projector_that_does_not_exist_fails() -> None:
    with pytest.raises(FileNotInRevision, match="no projector"):
        select_files(listing("m-Q4_K_M.gguf"), projector=True)


COMPANIONS = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
]
LEFT_OUT = [
    ".gitattributes",
    "README.md",
    "LICENSE",
    "imatrix.dat",
    "manifest.json",
    "Manifest.JSON",
    "model.safetensors",
    "model.safetensors.index.json",
    "original/params.json",
    "pytorch_model.bin.index.json",
    "tokenizer-vocabulary.gguf",
]


def test_only_the_small_files_that_describe_the_model_are_added() -> None:
    choice = select_files(listing(*COMPANIONS, *LEFT_OUT, "m-Q8_0.gguf", "m-Q4_K_M.gguf"))
    assert paths_of(choice) == [*COMPANIONS, "m-Q8_0.gguf"]


def test_the_small_files_come_first_and_the_size_is_the_sum() -> None:
    choice = select_files(listing("zz.json", "a-Q8_0.gguf", sizes={"zz.json": 7, "a-Q8_0.gguf": 35}))
    assert paths_of(choice) == ["zz.json", "a-Q8_0.gguf"]
    assert choice.size_bytes == 42


def test_small_files_above_the_size_limit_are_left_out() -> None:
    sizes = {"huge.json": MAX_COMPANION_BYTES + 1, "tokenizer.json": MAX_COMPANION_BYTES}
    assert paths_of(select_files(listing(*sizes, "m-Q8_0.gguf", sizes=sizes))) == ["tokenizer.json", "m-Q8_0.gguf"]


SIZES = {"m-Q8_0.gguf": 8 * GIB, "m-Q6_K.gguf": 6 * GIB, "m-Q4_K_M.gguf": 4 * GIB}


def test_the_candidate_that_the_preflight_prefers_overrides_the_order_of_preference() -> None:
    assert select_files(listing(*SIZES, sizes=SIZES)).quantization == "Q8_0"
    assert select_files(listing(*SIZES, sizes=SIZES), prefer="m-Q4_K_M.gguf").quantization == "Q4_K_M"


def test_each_candidate_has_a_reason() -> None:
    candidates = select_files(
        listing(*SIZES, *shards("m-Q5_K_M", 2, without=1), sizes=SIZES), prefer="m-Q6_K.gguf"
    ).candidates
    assert [(one.quantization, one.chosen, one.reason) for one in candidates] == [
        ("Q8_0", False, "another one was chosen"),
        ("Q6_K", True, "chosen: the first that fits, in the order of preference"),
        ("Q5_K_M", False, "1 of 2 shards are missing"),
        ("Q4_K_M", False, "another one was chosen"),
    ]


def test_without_a_preflight_the_reason_is_the_order_of_preference_alone() -> None:
    candidates = select_files(listing(*SIZES, sizes=SIZES)).candidates
    assert candidates[0].reason == "chosen: the first in the order of preference"
    assert {one.reason for one in candidates[1:]} == {"another one was chosen"}


def test_a_quantization_requested_by_name_is_chosen_with_that_reason() -> None:
    candidates = select_files(listing(*SIZES, sizes=SIZES), quantization="q6_k").candidates
    assert {one.quantization: one.reason for one in candidates} == {
        "Q8_0": "another one was requested by name",
        "Q6_K": "chosen: requested by name",
        "Q4_K_M": "another one was requested by name",
    }


def test_an_unavailable_quantization_lists_the_available_ones() -> None:
    with pytest.raises(
        FileNotInRevision, match=r"org/model-GGUF@bbbbbbbb has no Q5_K_M: use one of Q4_K_M, Q6_K, Q8_0$"
    ):
        select_files(listing(*SIZES), quantization="Q5_K_M")


def test_a_projector_never_matches_a_requested_quantization() -> None:
    with pytest.raises(FileNotInRevision, match=r"use one of Q4_K_M$"):
        select_files(listing("m-Q4_K_M.gguf", "mmproj-F16.gguf"), quantization="F16")


MANY = ["m-Q8_0.gguf", "m-Q4_K_M.gguf", "old/m-Q8_0.gguf", "m-Q8_0-imat.gguf", "vocab.gguf", "a b.gguf", "A-B.gguf"]


@pytest.mark.parametrize("change", [str, str.lower, str.upper], ids=["as printed", "lower case", "upper case"])
def test_every_candidate_is_chosen_by_the_variant_that_is_printed_for_it(change: Callable[[str], str]) -> None:
    there = listing(*MANY, *shards("big/m-Q6_K", 2))
    candidates = select_files(there).candidates
    assert len({one.variant for one in candidates}) == len(candidates) == len(MANY) + 1
    for candidate in candidates:
        choice = select_files(there, quantization=change(candidate.variant))
        assert (choice.variant, choice.model_files[0]) == (candidate.variant, candidate.file)


def test_every_candidate_is_chosen_by_its_quantization_or_its_file() -> None:
    there = listing("m-Q8_0.gguf", "m-Q4_K_M.gguf", *shards("big/m-Q6_K", 2))
    for candidate in select_files(there).candidates:
        for text in (candidate.quantization, candidate.file, candidate.file.rpartition("/")[2]):
            assert select_files(there, quantization=str(text)).variant == candidate.variant


@pytest.mark.parametrize("projector", ["mmproj-F16.gguf", "mmproj-Q8_0.gguf", "mmproj.gguf", "deep/mmproj-F16.gguf"])
def test_a_model_with_a_projector_is_chosen_by_the_variant_that_is_printed_for_it(projector: str) -> None:
    there = listing(
        "m-Q8_0.gguf", "m-Q4_K_M.gguf", "mmproj-F16.gguf", "mmproj-Q8_0.gguf", "mmproj.gguf", "deep/mmproj-F16.gguf"
    )
    by_file = select_files(there, files=["m-Q4_K_M.gguf", projector])
    by_name = select_files(there, quantization=by_file.variant)
    assert by_name.files == by_file.files
    assert by_name.variant == by_file.variant
    assert by_file.variant.startswith("Q4_K_M-")


def test_files_can_be_named_outright_and_any_shard_stands_for_all() -> None:
    parts = shards("m-Q2_K", 3)
    choice = select_files(listing(*parts, "m-Q8_0.gguf", "tokenizer.json"), files=[parts[1], parts[2]])
    assert paths_of(choice) == ["tokenizer.json", *parts]
    assert [(one.quantization, one.chosen) for one in choice.candidates] == [("Q8_0", False), ("Q2_K", True)]
    assert choice.candidates[1].reason == "chosen: requested by name"


def test_an_unavailable_file_lists_the_available_ones() -> None:
    with pytest.raises(FileNotInRevision, match=r"no GGUF file 'x\.gguf': use one of m-Q4_K_M\.gguf, m-Q8_0\.gguf$"):
        select_files(listing("m-Q8_0.gguf", "m-Q4_K_M.gguf"), files=["x.gguf"])


@pytest.mark.parametrize(
    ("paths", "model", "contents"),
    [
        (["model.safetensors", "config.json"], "org/model", "SafeTensors weights"),
        (["pytorch_model.bin"], "org/model", "PyTorch weights"),
        (["model.safetensors", "pytorch_model.bin"], "org/model", "PyTorch and SafeTensors weights"),
        (["consolidated.00.pth"], "org/model", "PyTorch weights"),
        (["model.safetensors"], "org/Model-GPTQ-Int4", "SafeTensors weights (GPTQ)"),
        (["model.safetensors", "quantize_config.json"], "org/model-4bit", "SafeTensors weights (GPTQ)"),
        (["model.safetensors"], "org/model-awq", "SafeTensors weights (AWQ)"),
        (["model.safetensors", "quant_config.json"], "org/model", "SafeTensors weights (AWQ)"),
        (["onnx/model.onnx"], "org/model", "ONNX weights"),
        (["tf_model.h5", "flax_model.msgpack"], "org/model", "Flax and Keras weights"),
        (["README.md", "config.json", ".gitattributes"], "org/model", "only README.md, config.json"),
        (["mmproj-F16.gguf"], "org/model", "only mmproj-F16.gguf"),
        ([".gitattributes"], "org/model", "no files"),
        ([], "org/model", "no files"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_repository_without_gguf_is_refused_with_what_it_has_instead(
    paths: list[str], model: str, contents: str
) -> None:
    with pytest.raises(NoGguf) as caught:
        select_files(listing(*paths, model=model))
    assert caught.value.message == f"no GGUF in {model}@bbbbbbbb: it has {contents}"
    assert f"{model}-GGUF" in caught.value.cure
    assert "does not convert" in caught.value.cure


HOSTILE = [
    "../../etc/cron.d/x",
    "/etc/passwd",
    "a\\b",
    "nul.txt",
    "a\x1b[2J",
    ".ssh/authorized_keys",
    "a\nb",
    "x" * 300,
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:20]))
def test_a_hostile_name_among_the_files_that_are_not_fetched_does_no_harm(name: str) -> None:
    choice = select_files(listing(name, f"{name}-Q4_K_M.gguf", f"{name}/config.json", "m-Q8_0.gguf"))
    assert paths_of(choice) == ["m-Q8_0.gguf"]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:20]))
def test_a_hostile_name_of_the_model_itself_is_refused(name: str) -> None:
    with pytest.raises(ModelRejected, match=r"the file name .* is not safe"):
        select_files(listing(f"{name}-Q8_0.gguf"))


NASTY = "a\x1b[31m\n"
MESSAGES: dict[str, Callable[[], FileSelection]] = {
    "no GGUF": lambda: select_files(listing(NASTY)),
    "no such file": lambda: select_files(listing(f"{NASTY}.gguf"), files=[NASTY]),
    "no such quantization": lambda: select_files(listing(f"{NASTY}.gguf"), quantization=NASTY),
    "a missing shard": lambda: select_files(listing(*shards(NASTY, 2, without=1))),
    "an unsafe name": lambda: select_files(listing(f"{NASTY}.gguf")),
}


@pytest.mark.parametrize("call", MESSAGES.values(), ids=MESSAGES)
def test_a_hostile_name_in_a_message_can_do_nothing_to_a_terminal(call: Callable[[], FileSelection]) -> None:
    with pytest.raises(PaddockError) as caught:
        call()
    assert str(caught.value).isprintable()
    assert "x1b[31m" in str(caught.value)


file_names = st.lists(
    st.sampled_from(
        ["m", "Q8_0", "q4_k_m", "UD-", "-00001-of-00002", "-00002-of-00002", ".gguf", "mmproj", "/", ".json"]
    ),
    min_size=1,
    max_size=5,
).map("".join)


@given(st.lists(file_names, unique=True, max_size=8), st.booleans())
def test_every_selection_has_safe_files_of_the_listing_a_complete_model_and_a_reason_for_each_candidate(
    paths: list[str], projector: bool
) -> None:
    there = listing(*paths)
    try:
        choice = select_files(there, projector=projector)
    except (NoGguf, MissingShard, FileNotInRevision, ModelRejected):
        return
    assert set(choice.files) <= set(there.files)
    check_distinct(parse_repository_path(path) for path in paths_of(choice))
    assert set(choice.model_files) <= set(paths_of(choice))
    assert not any("mmproj" in path.rpartition("/")[2] for path in choice.model_files)
    [chosen] = [one for one in choice.candidates if one.chosen]
    assert chosen.shards == len(choice.model_files)
    assert all(one.reason for one in choice.candidates)
