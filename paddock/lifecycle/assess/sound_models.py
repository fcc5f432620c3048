"""Read the GGUF headers of a source, each once, and skip files that are broken or of another model.

A survey tells from names and a few heads what the files are (`paddock.gguf.survey`). Here the whole header of each
model that might be chosen is read and audited, which decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddock.errors import FileNotInRevision, MalformedGguf, MissingShard, ModelRejected, NotGguf
from paddock.lifecycle.assess.model_header import ModelHeader, read_model_header
from paddock.lifecycle.assess.model_source import ModelSource, read_model_head
from paddock.model.finding import Severity
from paddock.model.names import printable
from paddock.model.quantization import GgufSet, likely_quantization, rank_key
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
        self._broken = set(source.survey.broken)
        self._larger: set[GgufSet] = set()  # the rejected files of models with more parameters
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
        if model in self._rejected or (model in self.passed_over and model in self.source.sets and not requested):
            return False
        try:
            header = read_model_header(self.source, model)
        except ModelRejected as error:
            if not requested and self._is_of_another_family(model):
                return False
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
        self.passed_over.pop(model, None)
        return True

    def rank(self, model: GgufSet) -> tuple[bool, int, int, int, str]:
        """The sort key of a model, best first. A label that is no quantization only suggests one until the header is
        read."""
        return rank_key(self.quantization(model) or likely_quantization(model.first), model)

    def first(self, models: Sequence[GgufSet], *, requested: bool = False) -> ModelHeader:
        """The header of the best sound model. Raises as `is_sound`, and ModelRejected where none of them is sound."""
        pending = list(models)
        while pending:
            model = min(pending, key=self.rank)
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

    def without(self, broken: Sequence[GgufSet]) -> SoundModels | None:
        """The models of the next family, where each of the main one was rejected for something that is wrong with its
        file alone; None where they were rejected for anything else, or there is no other model."""
        if not all(_is_of_one_file(self._rejected[model]) for model in broken if model in self._rejected):
            return None
        rest = SoundModels(self.source.without({*self._rejected, *self.source.survey.broken}))
        rest.passed_over |= {model: reason for model, reason in self.passed_over.items() if model in self._rejected}
        rest.passed_over |= {model: self.passed_over[model] for model in self.source.survey.broken}
        rest._rejected |= self._rejected
        rest._broken |= self._broken
        rest._larger |= self._larger | self._rejected.keys()
        return rest if rest.source.sets else None

    def better_skipped(self, chosen: GgufSet) -> tuple[str, ...]:
        """A line for each broken file that would have been preferred to the chosen one."""
        broken = self._rejected.keys() | self._broken
        better = [model for model in broken if model in self._larger or self.rank(model) < self.rank(chosen)]
        return tuple(
            f"{printable(model.first)} was passed over: {self.passed_over[model]}"
            for model in sorted(better, key=self.rank)
        )

    def _is_of_another_family(self, model: GgufSet) -> bool:
        """Whether a rejected file, which the survey did not read, is something else than the main model."""
        if model in self.source.survey.heads or self._main is None:
            return False
        try:
            head = read_model_head(self.source.openers, model)
        except (NotGguf, MalformedGguf):
            return False
        if head.family != self._main:
            self.passed_over[model] = f"another model ({head.family})" if head.family else head.kind.noun
        return head.family != self._main

    def _has(self, model: GgufSet, quantization: str) -> bool:
        stated = self.quantization(model)
        return stated is not None and same_variant(stated, quantization)


def choose_from(source: ModelSource, quantization: str = AUTO) -> tuple[SoundModels, tuple[GgufSet, ...]]:
    """The models that can be chosen, best first by their names, and at least one of them sound: those that
    `quantization` names, else the main family. Where all of its files are broken, those of the next family.

    Raises FileNotInRevision, MissingShard where no model has all of its shards, ModelRejected where none is sound, and
    the errors of the source.
    """
    models = SoundModels(source)
    requested = source.requested or quantization not in {AUTO, BEST}
    named = models.named(quantization)
    while True:
        complete = tuple(model for model in named if not model.missing)
        if not complete:
            missing = ", ".join(printable(path) for path in named[0].missing[:3])
            raise MissingShard(
                f"{source.name} has no model with all of its shards: {missing} is missing",
                cure="ask the repository's owner, or choose another quantization",
            )
        try:
            models.first(complete, requested=requested)
        except ModelRejected:
            rest = None if requested else models.without(complete)
            if rest is None:
                raise
            models, named = rest, rest.source.sets
        else:
            return models, complete


def best_sound_model(source: ModelSource) -> GgufSet:
    """The best sound model of a source by the order of preference; where none is sound, the best one, whose audit tells
    what is wrong with it. Raises the errors of the source."""
    try:
        models, candidates = choose_from(source)
    except (ModelRejected, MissingShard):
        return source.sets[0]
    return models.first(candidates, requested=source.requested).model


def _reason(error: ModelRejected) -> str:
    worst = [finding for finding in error.findings if finding.severity is Severity.REJECT]
    return worst[0].message if worst else error.message


def _is_of_one_file(error: ModelRejected) -> bool:
    worst = [finding.rule for finding in error.findings if finding.severity is Severity.REJECT]
    return bool(worst) and worst[0].startswith(_RULES_OF_ONE_FILE)
