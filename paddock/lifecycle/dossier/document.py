"""The dossier as a document: all that is known of a snapshot, as values that are written as JSON and as Markdown.

None stands for what is not known or not measured. Texts may be untrusted, and are shown escaped. A figure that is not a
number is null. The JSON schema is generated from these classes.
"""

from __future__ import annotations

import json
from datetime import datetime
from math import isfinite
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from paddock.gguf.kind import ModelKind
from paddock.measure.gate_report import Figure as GateFigure
from paddock.model.finding import Severity, Verdict

SCHEMA: Final = 1
MAX_TEXT: Final = 1_000
"""Characters of a text from a file, the Hub or a person."""

State = Literal["good", "neutral", "warning", "bad", "unknown"]
"""How good an answer is; `neutral` for a figure that nothing was compared with."""


def _plain(value: object) -> object:
    """A text without surrogates, which cannot be written, and cut where it is long."""
    if not isinstance(value, str):
        return value
    shown = value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]} …"
    return shown.encode(errors="backslashreplace").decode()


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not isfinite(value) else value


Text = Annotated[str, BeforeValidator(_plain)]
Figure = Annotated[float | None, BeforeValidator(_finite)]
Measured = Annotated[GateFigure, BeforeValidator(_finite), BeforeValidator(_plain)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DossierAnswer(_Part):
    """An answer to a question about the snapshot. `answer` is a few words, `detail` the facts behind it, and `command`
    what to run to learn more or to change it."""

    state: State
    answer: Text
    detail: Text
    command: str | None


class Verdicts(_Part):
    """The answers that the page begins with: whether the snapshot is sound, whether it fits its target, its speed,
    quality and cost, and the gates against what was promoted."""

    safe: DossierAnswer
    fits: DossierAnswer
    speed: DossierAnswer
    quality: DossierAnswer
    cost: DossierAnswer
    comparison: DossierAnswer


class Origin(_Part):
    """Where the snapshot comes from. `source` is where its bytes were fetched from."""

    repository: str
    revision: str
    source: str
    published_at: datetime
    licence: Text | None
    paddock_version: Text
    engine_version: Text


class HeaderSummary(_Part):
    """Facts from the header; `kind` is None before the snapshot was validated."""

    kind: ModelKind | None
    quantization: Text | None
    architecture: Text | None
    parameters: Count | None
    context_length: Count | None
    size_bytes: Count
    shards: Count


class Template(_Part):
    """The chat template that is served. `origin` says whose it is: a file's name, `the GGUF` or `family`."""

    origin: Text
    why: Text
    sha256: str
    stop: tuple[Text, ...]


class FindingRow(_Part):
    """A finding of the checks."""

    rule: Text
    severity: Severity
    message: Text
    where: Text
    cure: Text


class Command(_Part):
    """A command line to type."""

    line: str
    purpose: str


class Run(_Part):
    """How to run the snapshot. `parameters` are the engine's, under llama.cpp's names, and `source` says whose."""

    commands: tuple[Command, ...]
    parameters: dict[str, Any] | None
    source: Literal["plan", "benchmark", "tuned benchmark"] | None


class MemoryPart(_Part):
    """A part of the memory, or the total."""

    name: str
    bytes: Count


class MemorySummary(_Part):
    """The memory that the engine takes with `context_tokens` of context. `given_up` are deviations from the request."""

    context_tokens: Count
    target: Text
    parts: tuple[MemoryPart, ...]
    total_bytes: Count
    source: str
    given_up: tuple[Text, ...]


class SpeedSummary(_Part):
    """A benchmark. Where it is not `reliable`, `doubts` says why, and its figures are no facts. `rows` are (test,
    median, spread) as they are shown."""

    reliable: bool
    doubts: tuple[Text, ...]
    measured_at: Text | None
    machine: Text
    engine: Text
    prefill_tok_per_s: Figure
    decode_tok_per_s: Figure
    time_to_first_token_s: Figure
    rows: tuple[tuple[Text, Text, Text], ...]


class Interval(_Part):
    """A figure and its 95 % interval."""

    value: Figure
    low: Figure
    high: Figure


class QualitySummary(_Part):
    """Predictions compared with those of the snapshot `reference`; KL divergence in nats."""

    reference: Text
    predicted_tokens: Count
    perplexity: Interval
    reference_perplexity: Interval
    kl_mean: Interval
    kl_median: Figure
    kl_p99: Figure
    kl_p999: Figure
    kl_max: Figure
    top1_agreement: Interval
    measured_at: Text
    engine: Text


class GateRow(_Part):
    """A gate. `passed` is None where it could not decide."""

    name: Text
    bound: Text
    candidate: Measured
    promoted: Measured
    ratio: Figure
    ci95: tuple[Figure, Figure] | None
    passed: bool | None
    reason: Text


class GatesSummary(_Part):
    """The gates against the snapshot `promoted`; both were compared with `reference`."""

    promoted: Text | None
    reference: Text | None
    passed: bool
    undecided_blocks: bool
    gates: tuple[GateRow, ...]
    measured_at: Text


class LoadCost(_Part):
    """Tokens per second with `concurrency` requests at once, and the price of a million answer tokens at it."""

    concurrency: Count
    tok_per_s: Figure
    price_out: Figure


class MachineCost(_Part):
    """The cost of a million tokens on a machine: prices in the currency of the price of an hour, and energy of the GPUs
    in joules, in (prompts) and out (answers). Where the benchmark is not `reliable`, they are no facts."""

    machine: Text
    context_tokens: Count
    reliable: bool
    doubts: tuple[Text, ...]
    price_per_hour: Figure
    price_source: Text
    price_in: Figure
    price_out: Figure
    joules_in: Figure
    joules_out: Figure
    under_load: tuple[LoadCost, ...]


class PromotionRow(_Part):
    """A promotion or rollback that changed whether this snapshot was promoted. `forced`: it did not pass the gates, of
    which `failed_gates` had held it back."""

    at: datetime
    variant: str
    revision: str | None
    previous: str | None
    default: str | None
    previous_default: str | None
    rollback: bool
    forced: bool
    failed_gates: tuple[Text, ...]
    reason: Text
    by: Text | None


class FileRow(_Part):
    """A file of the snapshot."""

    path: Text
    size_bytes: Count
    sha256: str


class PictureRow(_Part):
    """A picture beside the dossier: `file` is its SVG, and a PNG has the same name. `alt` states its figures."""

    name: Text
    file: Text
    title: Text
    alt: Text


class DossierDocument(_Part):
    """All that is known of a snapshot. `reference` is its full name, as commands take it; `name` leaves out the
    revision. `known_at` is the time of the newest fact."""

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    name: str
    reference: str
    variant: str
    promoted: bool
    default: bool
    verdict: Verdict
    verdicts: Verdicts
    origin: Origin
    header: HeaderSummary
    template: Template | None
    run: Run
    findings: tuple[FindingRow, ...]
    validated: bool
    memory: MemorySummary | None
    speed: SpeedSummary | None
    quality: QualitySummary | None
    gates: GatesSummary | None
    costs: tuple[MachineCost, ...]
    promotions: tuple[PromotionRow, ...]
    files: tuple[FileRow, ...]
    pictures: tuple[PictureRow, ...] = ()
    known_at: datetime

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> DossierDocument:
        """Raises ValueError for anything but what `to_json` made."""
        return cls.model_validate_json(text)


def dossier_schema() -> dict[str, Any]:
    """The JSON schema of a dossier."""
    schema = DossierDocument.model_json_schema(mode="serialization", by_alias=True)
    for part in schema["$defs"].values():
        for value in part.get("properties", {}).values():
            value.pop("title", None)
    for value in schema["properties"].values():
        value.pop("title", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Dossier of a snapshot"}


def schema_text() -> str:
    """The schema as the file in `infra/` has it."""
    return json.dumps(dossier_schema(), indent=2) + "\n"
