"""Measure the quality of a snapshot against another one of the volume, and write it to the reports."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from paddock.errors import BadSetting, NotOnVolume
from paddock.gguf.directory import get_gguf_file_path
from paddock.lifecycle import reports
from paddock.lifecycle.assess.chat_template import chat_of_snapshot
from paddock.lifecycle.assess.verified import open_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.measure.answers import compare_answers, same_tensors
from paddock.measure.likelihood import LIMIT_TOKENS, predict
from paddock.measure.quality import Quality, summarise
from paddock.measure.quality_text import own_texts, read_text
from paddock.measure.roleplay import Roleplay, measure_roleplay
from paddock.model.artifact import Manifest

QUALITY = "quality.json"


@step(Kind.ENGINE, "quality", line=lambda quality: quality.line)
def measure_quality(
    clients: Clients,
    manifest: Manifest,
    reference: Manifest,
    *,
    text: Path | None = None,
    limit_tokens: int = LIMIT_TOKENS,
    roleplay: bool = False,
) -> Quality:
    """Compare a snapshot's predictions and greedy answers with those of a reference, on Paddock's own texts or on a
    text file. `roleplay` also plays the roleplay suite with both. The report is written for Paddock's own texts alone,
    so that reports compare.

    Raises BadSetting for a snapshot against itself, and as `predict` and `read_text`.
    """
    if reference.id == manifest.id:
        raise BadSetting(
            f"{manifest.id.short} cannot be compared with itself", cure="name another variant or revision as reference"
        )
    texts = (read_text(text),) if text else own_texts()
    began = time.monotonic()
    with ExitStack() as leases:
        paths = []
        for one in (reference, manifest):
            leases.enter_context(clients.volume.lease(one.id))
            paths.append(get_gguf_file_path(leases.enter_context(open_snapshot(clients, one)).directory))
        threads, timeout_s = clients.settings.threads, clients.settings.engine_timeout_s
        other, own = paths
        comparison = predict(other, [own], texts, threads=threads, limit_tokens=limit_tokens, timeout_s=timeout_s)
        seconds = time.monotonic() - began
        same = same_tensors(own, other)
        answers = compare_answers(own, other, same_tensors=same, threads=threads, timeout_s=timeout_s)

        def play(one: Manifest, path: Path) -> Roleplay:
            return measure_roleplay(path, chat_of_snapshot(clients, one), threads=threads, timeout_s=timeout_s)

        played = (play(manifest, own), play(reference, other)) if roleplay else (None, None)
    quality = summarise(comparison, 0, texts, model=str(manifest.id), reference=str(reference.id), seconds=seconds)
    quality = replace(quality, answers=answers, roleplay=played[0], reference_roleplay=played[1])
    if text is None and limit_tokens == LIMIT_TOKENS:
        reports.record(clients, manifest, QUALITY, quality.to_json())
    return quality


def best_reference(clients: Clients, manifest: Manifest) -> Manifest:
    """The other snapshot of the model on the volume with the largest weights, of the same revision if there is one.

    Raises NotOnVolume where the volume has no other.
    """
    others = [one for one in clients.volume.snapshots(manifest.model) if one.weights != manifest.weights]
    if not others:
        raise NotOnVolume(
            f"{clients.volume.label} has no other variant or revision of {manifest.repository} to compare with",
            cure=f"pull one (`paddock pull {manifest.model} --quant Q8_0 --no-promote`), or name a model with"
            " --against",
        )
    return max(others, key=lambda one: (one.revision == manifest.revision, one.size_bytes, one.variant))


def read_quality(clients: Clients, manifest: Manifest) -> Quality | None:
    return reports.read(clients, manifest, QUALITY, Quality.from_json)
