"""Survey the GGUF files of a repository or directory: which are quantizations of its main model, and what the rest is.

A repository holds importance matrices, adapters, projectors, draft models, smaller siblings and broken files beside its
model. The *main family* is that of the model with the most parameters. A draft model counts for less: its architecture
is one that the engine does not know, or its name says what it is.

Files whose paths differ in the quantization alone are a *series*, and are taken for one family. The head of the largest
file of each series is read, of at most `max_heads` series; what a file really is, is checked again with its whole
header before it is chosen. The result depends on the files alone, so all machines name variants in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from paddock.errors import MalformedGguf, NotGguf
from paddock.gguf.head import Head, ModelFamily
from paddock.gguf.kind import ModelKind
from paddock.model.names import printable
from paddock.model.quantization import GgufSet, rank_key, rank_models, stem_of, strip_quantization

MAX_HEADS = 4
"""Heads of remote files that a survey reads. Each costs two requests: one for the file's address, one for its bytes."""
MIN_MODEL_BYTES = 256
"""No model is smaller. An LFS pointer that was committed in place of a file has some 130 bytes."""
_DRAFT = re.compile(r"(?<![a-z])(?:mtp|drafts?|drafter|eagle\d?|dflash|medusa|nextn|speculat(?:or|ive))(?![a-z])")
_DRAFT_WEIGHT = 0.4
"""A file that looks like a draft model is the main one only with 2.5 times the parameters of any other."""
_NEAR_TIE = 2.0
_PLAUSIBLE_BITS = (0.8, 40.0)  # for each parameter of an estimate, which may be wrong by half

HeadReader = Callable[[GgufSet], Head]
"""Reads the head of a set's first file. Raises NotGguf and MalformedGguf, and the errors of its source."""


@dataclass(frozen=True, slots=True)
class Survey:
    """The GGUF files of a source, classified.

    `models` are the files of the main family, best first by their names; `siblings` are other models, which are chosen
    only by name. `passed_over` has the reason for every file that is not in `models`, among them those that are
    `broken`. `heads` are those that were read.
    """

    models: tuple[GgufSet, ...]
    siblings: tuple[GgufSet, ...] = ()
    projectors: tuple[GgufSet, ...] = ()
    passed_over: Mapping[GgufSet, str] = field(default_factory=dict)
    broken: frozenset[GgufSet] = frozenset()
    heads: Mapping[GgufSet, Head] = field(default_factory=dict)
    main: ModelFamily | None = None

    def width(self, model: GgufSet) -> int | None:
        """The embedding length of a model; None if its header was not read, and it is not of the main family."""
        head = self.heads.get(model)
        family = head.family if head else self.main if model in self.models else None
        return family.width if family else None

    @property
    def named(self) -> tuple[GgufSet, ...]:
        """The files that can be chosen by name."""
        return (*self.models, *self.siblings)


def survey_names(sets: Sequence[GgufSet]) -> Survey:
    """Survey without a header: every file is a model, or is named like a projector."""
    projectors = tuple(model for model in sets if model.is_projector)
    reasons = dict.fromkeys(projectors, f"named like {ModelKind.PROJECTOR.noun}")
    return Survey(tuple(rank_models(set(sets) - set(projectors))), projectors=projectors, passed_over=reasons)


def survey_snapshot(sets: Sequence[GgufSet]) -> Survey:
    """Survey the GGUF files of a snapshot, which has one model, and one projector at most: the smaller of the two where
    neither is named like one."""
    found = survey_names(sets)
    if len(found.models) != 2 or found.projectors:
        return found
    model, projector = sorted(found.models, key=lambda one: (-one.size, one.first))
    return Survey((model,), projectors=(projector,), passed_over={projector: ModelKind.PROJECTOR.noun})


def survey(
    sets: Sequence[GgufSet],
    *,
    read_head: HeadReader,
    read_exact: HeadReader,
    knows_architecture: Callable[[str], bool] = lambda _: True,
    max_heads: int = MAX_HEADS,
) -> Survey:
    """Survey the GGUF files of a source.

    `read_head` reads the first kilobytes of a file, and `read_exact` its whole header, which tells the exact number of
    parameters. Raises the errors of the source, such as HubUnavailable.
    """
    return _Surveyor(sets, read_head, read_exact, knows_architecture, max_heads).run()


class _Surveyor:
    def __init__(
        self,
        sets: Sequence[GgufSet],
        read_head: HeadReader,
        read_exact: HeadReader,
        knows_architecture: Callable[[str], bool],
        max_heads: int,
    ) -> None:
        self._sets, self._read_head, self._read_exact = sets, read_head, read_exact
        self._knows_architecture, self._left = knows_architecture, max_heads
        self._heads: dict[GgufSet, Head] = {}
        self._broken: dict[GgufSet, str] = {}

    def run(self) -> Survey:
        for model in self._sets:
            if model.size < MIN_MODEL_BYTES:
                self._broken[model] = "it is empty" if not model.size else f"it has {model.size} bytes, and no model"
        named_projectors = [model for model in self._sets if model.is_projector]
        series = _series(model for model in self._sets if model not in self._broken and not model.is_projector)
        if len(series) == 1 and len(series[0]) == 1:
            return self._result(series, None, named_projectors)
        for members in series:
            self._read_one(members)
        main = self._main_family()
        if main is None and named_projectors:  # a model may be named like a projector
            more = _series(model for model in named_projectors if model not in self._broken)
            for members in more:
                self._read_one(members)
            main = self._main_family()
            if main is not None:
                series, named_projectors = [*series, *more], []
        return self._result(series, main, named_projectors)

    def _read_one(self, members: Sequence[GgufSet]) -> None:
        """Read the head of the first readable member, while fewer than `max_heads` were read."""
        for model in members:
            if self._left <= 0:
                return
            self._left -= 1
            try:
                self._heads[model] = self._read_head(model)
            except (NotGguf, MalformedGguf) as error:
                self._broken[model] = error.message
            else:
                return

    def _main_family(self) -> ModelFamily | None:
        """The family with the most parameters. Where two are near each other by their estimates, the parameters are
        counted."""
        best = self._largest()
        if best is None:
            return None
        weight = self._weight(best)
        rivals = {
            head.family: model
            for model, head in self._heads.items()
            if head.family and not head.exact and self._weight(model) * _NEAR_TIE >= weight
        }
        if len(rivals) > 1:
            for model in rivals.values():
                try:
                    self._heads[model] = self._read_exact(model)
                except (NotGguf, MalformedGguf) as error:
                    self._broken[model] = error.message
                    del self._heads[model]
            best = self._largest()
        return self._heads[best].family if best else None

    def _largest(self) -> GgufSet | None:
        models = [model for model, head in self._heads.items() if head.kind.is_model and head.family]
        return max(models, key=self._weight, default=None)

    def _weight(self, model: GgufSet) -> float:
        head = self._heads[model]
        architecture = head.family.architecture if head.family else ""
        named_draft = bool(_DRAFT.search(model.first.lower()))
        unknown = architecture.endswith("-assistant") or not self._knows_architecture(architecture)
        return head.parameters * (_DRAFT_WEIGHT if named_draft else 1.0) * (_DRAFT_WEIGHT if unknown else 1.0)

    def _result(
        self, series: Sequence[Sequence[GgufSet]], main: ModelFamily | None, projectors: list[GgufSet]
    ) -> Survey:
        models: list[GgufSet] = []
        siblings: list[GgufSet] = []
        passed_over = dict.fromkeys(projectors, f"named like {ModelKind.PROJECTOR.noun}")
        parameters = next((head.parameters for head in self._heads.values() if head.family == main), None)
        for members in series:
            known = next((model for model in members if model in self._heads), None)
            head = self._heads[known] if known else None
            sound = [model for model in members if model not in self._broken]
            if head is None or known is None:
                alike = [model for model in sound if parameters is None or _is_plausible(model.size, parameters)]
                models += alike
                passed_over |= dict.fromkeys(set(sound) - set(alike), "its size is not that of the main model")
                siblings += [model for model in sound if model not in alike]
            elif head.kind.is_model and (head.family == main or main is None):
                models += sound
            else:
                what = f"another model ({head.family})" if head.kind.is_model else head.kind.noun
                for model in sound:
                    like = "" if model == known else f"named like {printable(known.first)}, which is "
                    passed_over[model] = f"{like}{what}" if like else what
                if head.kind.is_model:
                    siblings += sound
                elif head.kind is ModelKind.PROJECTOR:
                    projectors = [*projectors, *sound]
        if not models:  # whoever chooses one of them learns from its audit what it is
            models = siblings or [model for members in series for model in members]
        passed_over |= self._broken
        return Survey(
            models=tuple(rank_models(models)),
            siblings=tuple(rank_models(model for model in siblings if model not in models)),
            projectors=tuple(projectors),
            passed_over={model: reason for model, reason in passed_over.items() if model not in models},
            broken=frozenset(self._broken),
            heads=dict(self._heads),
            main=main,
        )


def _series(sets: Iterable[GgufSet]) -> list[list[GgufSet]]:
    """The series of these files, the one with the largest model first by estimate; the largest file of each first."""
    by_key: dict[tuple[str, ...], list[GgufSet]] = {}
    for model in sets:
        by_key.setdefault(_series_key(model.first), []).append(model)
    series = [
        sorted(members, key=lambda model: (-model.size, rank_key(model.quantization, model)))
        for members in by_key.values()
    ]
    return sorted(series, key=lambda members: (-_estimated_parameters(members[0]), members[0].first))


def _series_key(path: str) -> tuple[str, ...]:
    """The path without quantizations, in lower case: `Q8_0/Tiny-Q8_0.gguf` is of the series of `Tiny-Q4_K_M.gguf`."""
    parts = (strip_quantization(part).lower() for part in PurePosixPath(stem_of(path)).parts)
    return tuple(part for part in parts if part not in {"", "gguf"})


def _estimated_parameters(model: GgufSet) -> float:
    return model.size * 8 / bits_per_weight(model.quantization)


def bits_per_weight(quantization: str | None) -> float:
    """The usual bits for each weight of a quantization; those of Q4_K_M where it is None or not known."""
    name = (quantization or "").removeprefix("UD-")
    if name in {"F32", "F16", "BF16"}:
        return 32.0 if name == "F32" else 16.0
    digits = re.match(r"I?T?Q(\d)", name)
    return int(digits[1]) + 0.6 if digits else 4.8


def _is_plausible(size: int, parameters: int) -> bool:
    low, high = _PLAUSIBLE_BITS
    return low * parameters <= size * 8 <= high * parameters
