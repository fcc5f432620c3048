"""Tell whether a snapshot was measured with another engine than the installed one, and what got worse since.

The engine of a snapshot is that of its newest benchmark on this machine, else on any machine, else that of its last
validation, else the one that its manifest names. Two engines differ if their versions differ, or, on one machine, their
builds: a machine with GPUs has another build of the same version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from paddock.engine.facts import engine_build, engine_version
from paddock.lifecycle.assess.validate import Validation, read_validation
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.run.stored_benchmarks import newest_benchmark
from paddock.measure.benchmark_report import Benchmark
from paddock.model.artifact import Manifest
from paddock.model.finding import worst_verdict
from paddock.model.hardware import this_machine
from paddock.model.units import human_bytes

_MEMORY = 1.02
"""A plan may need this much more before it counts as worse, as in the gate `memory`."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A version of the engine, the id of its build, and the identity of the machine that it runs on; the last two are
    None where they are not known."""

    version: str
    build: str | None = None
    machine: str | None = None

    def differs_from(self, other: Engine) -> bool:
        if self.version != other.version:
            return True
        is_known = None not in {self.build, other.build, self.machine, other.machine}
        return is_known and self.machine == other.machine and self.build != other.build


@dataclass(frozen=True, slots=True)
class EngineChange:
    """A snapshot's engine, and the installed one."""

    before: Engine
    now: Engine

    @property
    def line(self) -> str:
        """`llama-cpp-python 0.3.36, now 0.3.37`, with the builds where only these differ."""
        version = f"llama-cpp-python {self.before.version}"
        if self.before.version != self.now.version:
            return f"{version}, now {self.now.version}"
        return f"{version} with the build {self.before.build}, now {self.now.build}"


def installed_engine() -> Engine:
    """Raises EngineTooOld."""
    return Engine(engine_version(), engine_build(), this_machine().identity)


def engine_change(clients: Clients, manifest: Manifest, installed: Engine | None = None) -> EngineChange | None:
    """The change of a snapshot's engine; None where the installed one measured it. S3 is asked only if the volume names
    another engine. Raises EngineTooOld."""
    now = installed or installed_engine()
    before = _engine_of(replace(clients, remote=None), manifest, now.machine)
    if before.differs_from(now) and clients.remote is not None:
        before = _engine_of(clients, manifest, now.machine)
    return EngineChange(before, now) if before.differs_from(now) else None


def promoted_with_other_engines(clients: Clients) -> Iterator[tuple[Manifest, EngineChange]]:
    """The promoted snapshots of the volume that the installed engine did not measure. Raises EngineTooOld."""
    installed = installed_engine()
    states = clients.volume.promotions.of_all(sorted({id.model for id in clients.volume.ids()}))
    for promoted, _ in states.values():
        for id in promoted.ids:
            manifest = clients.volume.snapshot(id)
            change = engine_change(clients, manifest, installed) if manifest else None
            if manifest and change:
                yield manifest, change


def closest_to(result: Benchmark, earlier: Sequence[Benchmark]) -> Benchmark | None:
    """Of earlier results, from the oldest, the newest that can be compared best: of the same machine, for the same
    context, and one that can be believed."""

    def rank(position: int) -> tuple[bool, bool, bool, int]:
        other = earlier[position]
        same_context = other.parameters.get("n_ctx") == result.parameters.get("n_ctx")
        return other.machine.identity == result.machine.identity, same_context, other.reliable, position

    return earlier[max(range(len(earlier)), key=rank)] if earlier else None


def what_got_worse(before: Benchmark, after: Benchmark, *, decode: float, prefill: float, first: float) -> list[str]:
    """A line for each figure that is worse than the bound. `decode` and `prefill` are the least shares of the speeds
    before, `first` the most of the time to the first token. Figures of different machines or contexts, and those that
    cannot be believed, are not compared, which is said."""
    found = [] if after.canary == before.canary else ["the tokens of its first answer are others"]
    if after.memory.total_bytes > _MEMORY * before.memory.total_bytes:
        sizes = [human_bytes(result.memory.total_bytes) for result in (after, before)]
        found.append(f"it takes {sizes[0]} of memory, before {sizes[1]}")
    if before.machine.identity != after.machine.identity:
        return [*found, f"its speeds are not compared: they were measured before on {before.machine.name}"]
    if before.parameters.get("n_ctx") != after.parameters.get("n_ctx"):
        return [*found, "its speeds are not compared: they were measured before with another context"]
    if not (before.reliable and after.reliable):
        return [*found, "its speeds are not compared: a measurement was disturbed"]
    if not after.kind.embeds and not before.kind.embeds:
        found += _slower("decode", before.decode_tok_per_s, after.decode_tok_per_s, least=decode)
    found += _slower("prefill", before.prefill_tok_per_s, after.prefill_tok_per_s, least=prefill)
    if after.time_to_first_token_s > first * before.time_to_first_token_s:
        times = f"{before.time_to_first_token_s * 1000:.0f} to {after.time_to_first_token_s * 1000:.0f} ms"
        found.append(f"the time to the first token rose from {times}")
    return found


def worse_verdict(before: Validation | None, after: Validation) -> list[str]:
    """A line if a verdict is worse than the one before."""
    if before is None or worst_verdict([before.verdict, after.verdict]) == before.verdict:
        return []
    return [f"the verdict is {after.verdict}, before {before.verdict}"]


def _engine_of(clients: Clients, manifest: Manifest, machine: str | None) -> Engine:
    benchmark = newest_benchmark(clients, manifest, machine)
    if benchmark is not None:
        version = benchmark.engine.removeprefix("llama-cpp-python ")
        return Engine(version, benchmark.build, benchmark.machine.identity)
    validation = read_validation(clients, manifest)
    if validation is not None and validation.engine is not None:
        return Engine(validation.engine)
    return Engine(manifest.engine_version)


def _slower(what: str, before: float, after: float, *, least: float) -> list[str]:
    if after >= least * before:
        return []
    return [f"{what} fell from {before:.1f} to {after:.1f} tokens/s ({after / before - 1:.0%})"]
