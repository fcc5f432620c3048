"""May a model run on a machine, and how: from its header alone, before a weight is fetched.

The header is audited, and the installed engine itself says what it takes (`engine.oracle`). Other quantizations of the
repository differ in their weights and in nothing else, so one answer tells for all which of them fit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddock.engine.facts import knows_architecture
from paddock.engine.oracle import MARGIN_BYTES, Memory, measure_header
from paddock.engine.parameters import Parameters
from paddock.errors import FileNotInRevision, NoGguf
from paddock.gguf.reader import ByteSource, FileSource, read_header
from paddock.lifecycle.auditing import require_accepted
from paddock.lifecycle.inspection import local_path, repository_of
from paddock.lifecycle.parts import Parts
from paddock.model.hardware import Machine, this_machine
from paddock.model.quantization import GgufSet, local_files, ranked_by_place, split_count
from paddock.model.units import human_bytes
from paddock.planning.choice import AUTO
from paddock.planning.plan import LEAST_CONTEXT, Plan, Target, Wish, longest_context, make_plan
from paddock.transfer.ranges import RangeReader
from paddock.validation.audit import ModelFacts, audit_set


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one quantization would take, and why it is chosen or not."""

    quantization: str | None
    file: str
    size_bytes: int
    total_bytes: int
    fits: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Preflight:
    """The plan for the chosen quantization, and what the others would take. `advice` is what to do where nothing
    fits."""

    name: str
    quantization: str | None
    file: str
    plan: Plan
    candidates: tuple[Candidate, ...]
    advice: str
    bytes_read: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.name,
            "fits": self.plan.fits,
            "quantization": self.quantization,
            "file": self.file,
            "memory": self.plan.memory.to_json(),
            "parameters": self.plan.parameters.to_json(),
            "given_up": list(self.plan.given_up),
            "candidates": [
                {
                    "quantization": one.quantization,
                    "file": one.file,
                    "size_bytes": one.size_bytes,
                    "total_bytes": one.total_bytes,
                    "fits": one.fits,
                    "reason": one.reason,
                }
                for one in self.candidates
            ],
            "advice": self.advice,
            "bytes_read": self.bytes_read,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class _Models:
    """The GGUF models that a source offers, best first, and how their bytes are reached."""

    name: str
    sets: tuple[GgufSet, ...]
    open: Callable[[GgufSet], AbstractContextManager[Sequence[ByteSource]]]

    def named(self, quantization: str) -> tuple[GgufSet, ...]:
        if quantization == AUTO:
            return self.sets
        asked = tuple(one for one in self.sets if (one.quantization or "").lower() == quantization.lower())
        if not asked:
            has = ", ".join(sorted({one.quantization or one.first for one in self.sets}))
            raise FileNotInRevision(f"{self.name} has no {quantization}", cure=f"use one of {has}")
        return asked


def preflight(
    parts: Parts,
    source: str,
    wish: Wish,
    *,
    target: Target | None = None,
    quantization: str = AUTO,
    machine: Machine | None = None,
) -> Preflight:
    """Plan SOURCE (as `inspect` takes it) for `target`, by default what `machine` has free. That is this one, and given
    only where it is known already.

    Raises ModelRejected for a header that the audit rejects, ConflictingConfiguration, FileNotInRevision, NoGguf, and
    the errors of the Hub, the transfer and the engine.
    """
    began = time.perf_counter()
    machine = machine or this_machine()
    models = _models(parts, source)
    whole = [one for one in models.named(quantization) if not one.missing]
    if not whole:
        raise NoGguf(f"{models.name} has no model of which every shard is there", cure="ask its owner")
    first = _Header.read(models, whole[0])
    target = target or Target(machine.ram_available_bytes, _vram(machine, first))
    plan = first.plan(target, wish, machine.cores)
    beside = plan.memory.total_bytes - plan.memory.weights_bytes
    chosen, read = first, first.bytes_read
    if not plan.fits:
        fitting = next((one for one in whole if target.holds(one.size + beside)), min(whole, key=lambda one: one.size))
        if fitting is not first.model:
            chosen = _Header.read(models, fitting)
            read += chosen.bytes_read
            plan = chosen.plan(target, wish, machine.cores)
    advice = "" if plan.fits else _advice(chosen, plan, target)
    return Preflight(
        name=models.name,
        quantization=chosen.model.quantization or chosen.facts.quantization,
        file=chosen.model.first,
        plan=plan,
        candidates=tuple(
            _verdict(one, chosen.model, plan, target, by_name=quantization != AUTO) for one in models.sets
        ),
        advice=advice,
        bytes_read=read,
        seconds=time.perf_counter() - began,
    )


@dataclass(frozen=True, slots=True)
class _Header:
    """A model's audited headers, and what they say."""

    model: GgufSet
    facts: ModelFacts
    shards: tuple[tuple[bytes, int], ...]
    bytes_read: int

    @classmethod
    def read(cls, models: _Models, model: GgufSet) -> _Header:
        with models.open(model) as sources:
            audit = audit_set(sources, names=model.paths, knows_architecture=knows_architecture)
            require_accepted(models.name, audit.verdict, audit.findings)
            headers = [read_header(one) for one in sources]
            read = sum(one.bytes_read if isinstance(one, RangeReader) else 0 for one in sources)
        if audit.model is None:
            raise AssertionError("an accepted audit has a model")
        shards = tuple((header.prefix[: header.data_offset], header.size) for header in headers)
        return cls(model, audit.model, shards, read or audit.bytes_read)

    def ask(self, parameters: Parameters) -> Memory:
        return measure_header(self.shards, [parameters])[0]

    def plan(self, target: Target, wish: Wish, threads: int) -> Plan:
        return make_plan(
            self.ask,
            target,
            wish,
            trained=self.facts.context_length,
            layers=self.facts.block_count,
            threads=threads,
        )


def _models(parts: Parts, source: str) -> _Models:
    path = local_path(source)
    if path is not None:
        return _local(path)
    model, ref, file = repository_of(source)
    listing = parts.hub.listing(model, ref)
    by_path = {one.path: one for one in listing.files}
    sets = ranked_by_place((one.path, one.size) for one in listing.files)
    if file is not None:
        sets = [one for one in sets if file in one.paths]
    if not sets:
        raise NoGguf(f"{model}@{listing.revision[:8]} has no GGUF{f' {file}' if file else ''}", cure="see its files")

    @contextmanager
    def reach(one: GgufSet) -> Iterator[Sequence[ByteSource]]:
        with ExitStack() as stack:
            yield [
                stack.enter_context(
                    RangeReader(parts.hub.file(model, listing.revision, by_path[name]), stall_s=parts.settings.stall_s)
                )
                for name in one.paths
            ]

    return _Models(f"{model}@{listing.revision}", tuple(sets), reach)


def _local(path: Path) -> _Models:
    home = path if path.is_dir() else path.parent
    if path.is_dir():
        sets = ranked_by_place(local_files(home))
    elif split_count(path.name) > 1:
        beside = ((other.name, other.stat().st_size) for other in home.iterdir() if other.is_file())
        sets = [one for one in ranked_by_place(beside) if path.name in one.paths]
    else:  # what else lies there is not looked at: it may be much
        sets = [GgufSet((path.name,), path.stat().st_size)]
    if not sets:
        raise NoGguf(f"{home} holds no GGUF", cure="give a .gguf file, or the directory of one")

    @contextmanager
    def reach(one: GgufSet) -> Iterator[Sequence[ByteSource]]:
        with ExitStack() as stack:
            yield [stack.enter_context(FileSource(home / name)) for name in one.paths]

    return _Models(str(path), tuple(sets), reach)


def _vram(machine: Machine, header: _Header) -> tuple[int, ...]:
    """The memory of this machine's GPUs where the engine uses them: a build for the processor alone does not."""
    if not machine.gpus:
        return ()
    said = header.ask(Parameters(n_ctx=LEAST_CONTEXT, n_threads=1))
    on_gpu = any(not device.startswith("CPU") for device in said.devices)
    return tuple(gpu.vram_available_bytes for gpu in machine.gpus) if on_gpu else ()


def _verdict(one: GgufSet, chosen: GgufSet, plan: Plan, target: Target, *, by_name: bool) -> Candidate:
    """What one would take with the context of the plan: the others' weights are their files' sizes."""
    beside = plan.memory.total_bytes - plan.memory.weights_bytes
    total = plan.memory.total_bytes if one == chosen else one.size + beside
    fits = not one.missing and target.holds(total)
    tokens = plan.parameters.n_ctx
    if one.missing:
        reason = f"{len(one.missing)} of {one.declared} shards are missing"
    elif not fits:
        missing = total + MARGIN_BYTES - target.total_bytes
        reason = f"{human_bytes(missing)} too large with {tokens} tokens of context"
    elif one == chosen:
        reason = f"chosen: {'asked for by name' if by_name else 'the first that fits, in the order of preference'}"
    else:
        reason = f"fits with {tokens} tokens of context"
    return Candidate(one.quantization, one.first, one.size, total, fits, reason)


def _advice(chosen: _Header, plan: Plan, target: Target) -> str:
    tokens = longest_context(chosen.ask, target, plan)
    what = chosen.model.quantization or chosen.model.first
    if tokens:
        return f"with {tokens} tokens of context {what} would fit"
    needed = plan.memory.total_bytes + MARGIN_BYTES
    return f"a machine with {human_bytes(needed)} of memory, or a smaller model, is needed"
