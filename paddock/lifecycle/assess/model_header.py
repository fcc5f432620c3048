"""Read and audit the header of a model of a source, and predict its memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from paddock.engine.facts import knows_architecture
from paddock.engine.oracle import Memory, measure_header
from paddock.engine.parameters import Parameters
from paddock.errors import EngineCrashed, ModelRejected
from paddock.gguf.head import Head, head_of
from paddock.gguf.kind import computes_whole_prompts
from paddock.gguf.reader import read_header
from paddock.lifecycle.assess.audit import require_accepted
from paddock.lifecycle.assess.model_source import ModelSource, ShardOpener, from_nearest
from paddock.model.finding import Finding, Severity
from paddock.model.names import printable
from paddock.model.quantization import GgufSet
from paddock.planning.footprint import Footprint, footprint
from paddock.timings import phase
from paddock.transfer.ranges import RangeReader
from paddock.validation.audit import ModelFacts, audit_set
from paddock.validation.compatibility import EngineRequirements, engine_requirements


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """The audited headers of a model's shards, and the facts in them.

    `head` is the kind and family of the model. `shards` are (the bytes up to the tensor data, the file's size in
    bytes). `misnamed`: the file's name states another quantization than its header. `whole_prompts`: the engine
    computes a prompt in one batch only. `local_bytes_read` is how much of local files was read for all of this.
    """

    model: GgufSet
    head: Head
    facts: ModelFacts
    misnamed: bool
    whole_prompts: bool
    needs: EngineRequirements
    footprint: Footprint
    shards: tuple[tuple[bytes, int], ...]
    local_bytes_read: int

    @property
    def quantization(self) -> str | None:
        """As the name states it; as the header does where the name is wrong or states none."""
        return self.facts.quantization if self.misnamed else self.model.quantization or self.facts.quantization

    def predict_memory(self, parameters: Sequence[Parameters]) -> list[Memory]:
        """The memory that the engine would allocate with each of the parameters.

        Raises as `engine.oracle.measure_header`, and ModelRejected for a header that kills the engine by a signal.
        """
        try:
            return measure_header(self.shards, parameters)
        except EngineCrashed as error:
            if not error.by_signal:
                raise
            cure = "use another file, or a newer llama-cpp-python; where sound models fail too, its build is faulty"
            rejected = ModelRejected(
                f"{printable(self.model.first)} is rejected by compatibility.engine: {error.message}", cure=cure
            )
            where = self.model.first
            rejected.findings = (Finding("compatibility.engine", Severity.REJECT, error.message, where, cure),)
            raise rejected from error


def read_model_header(source: ModelSource, model: GgufSet) -> ModelHeader:
    """Read and audit the headers of a model. Raises ModelRejected, and the errors of the Hub and the transfer."""
    return from_nearest(source.openers, lambda copy: _read_header(source, model, copy))


def _read_header(source: ModelSource, model: GgufSet, open_shards: ShardOpener) -> ModelHeader:
    with phase("header"), open_shards(model) as shards:
        _request_beginnings([shard for shard in shards if isinstance(shard, RangeReader)], source.connections)
        audit = audit_set(shards, names=model.paths, knows_architecture=knows_architecture)
        require_accepted(source.name, audit.verdict, audit.findings)
        headers = [read_header(shard) for shard in shards]
        is_local = not any(isinstance(shard, RangeReader) for shard in shards)
    if audit.model is None:
        raise AssertionError("an accepted audit has a model")
    tensors = [tensor for header in headers for tensor in header.tensors]
    return ModelHeader(
        model=model,
        head=head_of(headers[0], parameters=audit.model.parameters),
        facts=audit.model,
        misnamed=headers[0].integer("general.file_type") is not None
        and any(finding.rule == "gguf.model.quantization-name" for finding in audit.findings),
        whole_prompts=computes_whole_prompts(headers[0], audit.model.kind),
        needs=engine_requirements(headers[0], tensors),
        footprint=footprint(headers[0], tensors),
        shards=tuple((header.prefix[: header.data_offset], header.size) for header in headers),
        local_bytes_read=audit.bytes_read if is_local else 0,
    )


def _request_beginnings(shards: Sequence[RangeReader], connections: int) -> None:
    """Fetch the first bytes of several files at once: each request takes as long as a server takes to answer it."""
    if len(shards) > 1:
        with ThreadPoolExecutor(connections, thread_name_prefix="paddock-header") as pool:
            try:
                for _ in pool.map(lambda shard: shard.read_at(0, 1), shards):
                    pass
            except BaseException:
                for shard in shards:
                    shard.close()  # what is still on its way ends at once
                raise
