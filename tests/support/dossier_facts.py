"""What a dossier is composed from, as values: a snapshot of which everything is known, with any of it replaced."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from paddock.chat.template import ChatFormat
from paddock.engine.oracle import Memory
from paddock.engine.parameters import Parameters
from paddock.gguf.kind import ModelKind
from paddock.lifecycle.assess.validate import Validation
from paddock.lifecycle.dossier.facts import DossierFacts
from paddock.measure.benchmark_report import Benchmark, LengthResult
from paddock.measure.cost import CostRow, LoadPrice
from paddock.measure.gate_report import Gate, GateReport
from paddock.measure.quality import Estimate, KlDivergence, Quality, TextQuality
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.finding import Verdict
from paddock.model.hardware import Machine
from paddock.model.names import Revision, Sha256
from paddock.model.reference import Variant
from paddock.store.history import Promoted, Promotion
from paddock.validation.audit import ModelFacts

NOW = datetime(2026, 5, 1, 3, tzinfo=UTC)
COMMIT = Revision("c0ffee" + "0" * 34)
BEFORE = Revision("dead" + "0" * 36)
NAME = "org/Story-7B-GGUF"
VARIANT = Variant("Q4_K_M")
PROMOTED = f"{NAME}:{VARIANT}@{BEFORE}"
REFERENCE = f"{NAME}:Q8_0@{COMMIT}"
_MEMORY = Memory(4 * 2**30, 512 * 2**20, 300 * 2**20, 2**20, "engine")
_PARAMETERS = Parameters(n_ctx=4096, n_threads=8)

MANIFEST = Manifest(
    repository=NAME,
    revision=COMMIT,
    variant=VARIANT,
    files=(
        SnapshotFile(path="Story-7B.Q4_K_M.gguf", size=4_368_439_584, sha256=Sha256("ab" * 32)),
        SnapshotFile(path="config.json", size=612, sha256=Sha256("cd" * 32)),
    ),
    segment_bytes=2**26,
    quantization="Q4_K_M",
    licence="apache-2.0",
    created_at=NOW,
    verdict=Verdict.ACCEPT,
    template_sha256=Sha256("ef" * 32),
    paddock_version="1.0",
    engine_version="0.3.36",
)
VALIDATION = Validation(
    verdict=Verdict.ACCEPT,
    findings=(),
    model=ModelFacts(ModelKind.TEXT, "llama", 7_241_732_096, "Q4_K_M", 32_768, 32_000, 32, 4_368_439_584, 1),
    memory=_MEMORY,
    context_tokens=4096,
    parameters=_PARAMETERS,
)
CHAT = ChatFormat("{{ messages }}", "the GGUF", "it is sound", "<s>", "</s>", ("<|im_end|>",))
BENCHMARK = Benchmark(
    results=(
        LengthResult(256, 0, 412.5, None, 0.021, 5, 0.62),
        LengthResult(0, 64, None, 38.4, 0.012, 5),
    ),
    time_to_first_token_s=0.62,
    load_s=2.3,
    memory=_MEMORY,
    peak_rss_bytes=5 * 2**30,
    canary=(1, 2, 3, 4, 5, 6, 7, 8),
    machine=Machine("AMD EPYC 9454", 8, 64 * 2**30, 60 * 2**30, (), "no NVIDIA driver is installed"),
    engine="llama-cpp-python 0.3.36",
    parameters=_PARAMETERS.to_json(),
    schema=3,
    measured_at="2026-05-01T03:10:00+00:00",
    bandwidth_bytes_per_s=200_000_000_000,
    bandwidth_source="measured",
    tuned=True,
)
QUALITY = Quality(
    model=str(MANIFEST.id),
    reference=REFERENCE,
    tokens=10_921,
    predicted=5_376,
    perplexity=Estimate(9.183, 8.71, 9.66),
    reference_perplexity=Estimate(9.021, 8.55, 9.49),
    kl_divergence=KlDivergence(0.0214, 0.0089, 0.181, 0.532, 1.204, (0.0196, 0.0235)),
    top1_agreement=Estimate(0.9421, 0.936, 0.948),
    texts=(TextQuality("prose", 2_000, 9.1, 0.02, 0.94),),
    texts_sha256="12" * 32,
    seconds=61.0,
    engine="llama-cpp-python 0.3.36",
    measured_at="2026-05-01T03:20:00+00:00",
)


def gate(name: str = "kl_ratio", passed: bool | None = True, **changes: Any) -> Gate:
    """A gate that passed, failed or was not decided."""
    values = {
        "name": name,
        "bound": "at most 1.50 times the promoted one's",
        "candidate": 0.0214,
        "promoted": 0.0198,
        "ratio": 1.081,
        "ci95": (0.97, 1.19),
        "passed": passed,
        "reason": {True: "", False: "the interval is above the bound", None: "the interval holds the bound"}[passed],
    }
    return Gate(**{**values, **changes})


GATES = GateReport(
    model=str(MANIFEST.id),
    promoted=PROMOTED,
    reference=REFERENCE,
    gates=(
        gate(),
        gate("decode", bound="at least 0.90 of the promoted one's", candidate=38.4, promoted=37.9, ratio=1.013),
        gate("template", bound="renders the same", candidate=True, promoted=True, ratio=None, ci95=None),
    ),
    undecided_blocks=False,
    engine="llama-cpp-python 0.3.36",
    measured_at="2026-05-01T03:30:00+00:00",
    seconds=180.0,
)
COST = CostRow(
    name=MANIFEST.id.short,
    variant=VARIANT,
    revision=COMMIT,
    promoted=True,
    size_bytes=MANIFEST.size_bytes,
    machine="AMD EPYC 9454, 8 cores",
    machine_id=BENCHMARK.machine.identity,
    context_tokens=4096,
    engine=BENCHMARK.engine,
    measured_at=BENCHMARK.measured_at,
    decode_tok_per_s=38.4,
    prefill_tok_per_s=412.5,
    memory_bytes=_MEMORY.total_bytes,
    kl_mean=None,
    price_per_hour=0.35,
    price_source="PADDOCK_PRICE_PER_HOUR",
    price_in=0.2357,
    price_out=2.5318,
    joules_in=None,
    joules_out=1.2e6,
    under_load=(LoadPrice(8, 121.0, 0.8035),),
    reliable=True,
    doubts=(),
    on_front=None,
    dominated_by=(),
    missing=(),
)
PROMOTION = Promotion(
    "1", VARIANT, COMMIT, BEFORE, VARIANT, VARIANT, datetime(2026, 5, 1, 4, tzinfo=UTC), "onboarded", "ann@host"
)
EVERYTHING = DossierFacts(
    manifest=MANIFEST,
    promoted=Promoted(MANIFEST.model, VARIANT, {VARIANT: COMMIT}),
    history=(PROMOTION,),
    damage="",
    validation=VALIDATION,
    chat=CHAT,
    benchmark=BENCHMARK,
    quality=QUALITY,
    gates=GATES,
    costs=(COST,),
)
NOTHING = replace(
    EVERYTHING,
    promoted=Promoted(MANIFEST.model),
    history=(),
    validation=None,
    benchmark=None,
    quality=None,
    gates=None,
    costs=(),
)
"""A snapshot that was just published."""
