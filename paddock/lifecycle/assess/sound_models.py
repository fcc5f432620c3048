"""Read the headers of a source's models, each once, and pass over those that are broken or another model.

A survey tells from names and a few heads what the files are (`paddock.gguf.survey`). Here the whole header of each
model that might be chosen is read and audited, which decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddock.errors import FileNotInRevision, ModelRejected
from paddock.lifecycle.assess.model_header import ModelHeader, read_model_header
from paddock.lifecycle.assess.model_source import ModelSource
from paddock.model.finding import Severity
from paddock.model.names import printable
from paddock.model.quantization import GgufSet, rank_key
from paddock.model.reference import same_variant
from paddock.planning.file_selection import AUTO, BEST, find_variant

_MAX_REJECTED_MODELS = 3
"""Quantizations of a model that are read when each is rejected for what they have in common, such as the template."""
_RULES_OF_ONE_FILE = ("gguf.container.", "gguf.split.", "gguf.key.", "gguf.tensor.", "gguf.weights.")


class SoundModels:
    """The models of a source that can be chosen. `headers` are those that were read, `passed_over` has a reason for
    every other file."""

    def __init__(self, source: ModelSource) -> None:
        self.source = source
        self.headers: dict[GgufSet, ModelHeader] = {}
        self.passed_over: dict[GgufSet, str] = dict(source.survey.passed_over)
        self._rejected: dict[GgufSet, ModelRejected] = {}
        self._main = source.survey.main

    @property
    def bytes_read(self) -> int:
        """Over the network, or from local files."""
        return self.source.traffic.received_bytes + sum(header.local_bytes_read for header in self.headers.values())

    def quantization(self, model: GgufSet) -> str | None:
        """By the header where that was read, else by the file's name."""
        return self.headers[model].quantization if model in self.headers else model.quantization

    def named(self, quantization: str) -> tuple[GgufSet, ...]:
        """The models that a variant, a file or a quantization names, or all of the main family for `auto` and `best`.

        A quantization that no name states is looked for in the headers. Raises FileNotInRevision where there are none.
        """
        survey, names = self.source.survey, self.source.names
        if quantization in {AUTO, BEST}:
            return survey.models
        found, _ = find_variant(survey, names, quantization)
        found = found or [
            model
            for model in survey.models
            if model.quantization is None and self.is_sound(model) and self._has(model, quantization)
        ]
        if not found:
            variants = ", ".join(sorted(names[model] for model in survey.models))
            raise FileNotInRevision(
                f"{self.source.name} has no {printable(quantization)}",
                cure=f"use one of {variants}, or name a file with --file",
            )
        return tuple(found)

    def is_sound(self, model: GgufSet, *, requested: bool = False) -> bool:
        """Whether the header of a model is sound and, unless it was requested by name, of the main family.

        Raises ModelRejected for the third model that is rejected for anything that quantizations have in common, and
        the errors of the source.
        """
        if model in self.headers:
            return model not in self.passed_over
        if model in self._rejected:
            return False
        try:
            header = read_model_header(self.source, model)
        except ModelRejected as error:
            self._rejected[model] = error
            self.passed_over[model] = _reason(error)
            common = [rejected for rejected in self._rejected.values() if not _is_of_one_file(rejected)]
            if len(common) >= _MAX_REJECTED_MODELS:
                raise common[0] from None
            return False
        self.headers[model] = header
        self._main = self._main or header.head.family
        if not requested and header.head.family != self._main:
            self.passed_over[model] = f"another model ({header.head.family})"
            return False
        return True

    def first(self, models: Sequence[GgufSet], *, requested: bool = False) -> ModelHeader:
        """The header of the best sound model. Raises as `is_sound`, and ModelRejected where none of them is sound."""
        pending = list(models)
        while pending:
            model = min(pending, key=lambda model: rank_key(self.quantization(model), model))
            if model in self.headers and model not in self.passed_over:
                return self.headers[model]
            if not self.is_sound(model, requested=requested):
                pending.remove(model)
        raise self.rejection(models)

    def rejection(self, models: Sequence[GgufSet]) -> ModelRejected:
        """The error where none of `models` is sound: that of the best one."""
        for model in models:
            if model in self._rejected:
                return self._rejected[model]
        reasons = ", ".join(
            f"{printable(model.first)}: {self.passed_over.get(model, 'rejected')}" for model in models[:4]
        )
        return ModelRejected(f"{self.source.name} has no sound model ({reasons})", cure="name a file with --file")

    def all_broken(self, models: Sequence[GgufSet]) -> bool:
        """Whether each of these was rejected for something that is wrong with its file alone."""
        return all(model in self._rejected and _is_of_one_file(self._rejected[model]) for model in models)

    def better_skipped(self, chosen: GgufSet) -> tuple[str, ...]:
        """A line for each broken file that would have been preferred to the chosen one."""
        broken = self._rejected.keys() | self.source.survey.broken
        rank = rank_key(self.quantization(chosen), chosen)
        better = [model for model in broken if model != chosen and rank_key(model.quantization, model) < rank]
        return tuple(
            f"{printable(model.first)} was passed over: {self.passed_over[model]}"
            for model in sorted(better, key=lambda model: rank_key(model.quantization, model))
        )

    def _has(self, model: GgufSet, quantization: str) -> bool:
        stated = self.quantization(model)
        return stated is not None and same_variant(stated, quantization)


def best_sound_model(source: ModelSource) -> GgufSet:
    """The best sound model of a source by the order of preference; where none is sound, the best one, whose audit tells
    what is wrong with it. Raises the errors of the source."""
    models = SoundModels(source)
    candidates = [model for model in source.sets if not model.missing] or list(source.sets)
    try:
        return models.first(candidates, requested=source.requested).model
    except ModelRejected:
        return source.sets[0]


def _reason(error: ModelRejected) -> str:
    worst = [finding for finding in error.findings if finding.severity is Severity.REJECT]
    return worst[0].message if worst else error.message


def _is_of_one_file(error: ModelRejected) -> bool:
    worst = [finding.rule for finding in error.findings if finding.severity is Severity.REJECT]
    return bool(worst) and worst[0].startswith(_RULES_OF_ONE_FILE)
