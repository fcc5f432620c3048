"""A dossier that was written says what is known: whatever changes a fact of a snapshot writes it again."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from paddock.cli import volume
from paddock.errors import DoesNotFit
from paddock.lifecycle import dossier
from paddock.lifecycle.assess.validate import require_sound
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.dossier import dossier_kept_current
from paddock.lifecycle.promote import promote
from paddock.lifecycle.run.stored_benchmarks import record_benchmark
from paddock.lifecycle.upkeep.verify import verify
from paddock.model.artifact import Manifest
from paddock.model.names import Revision
from paddock.model.reference import Reference
from paddock.planning.placement import Target
from tests.support.damage import flip
from tests.support.dossier_facts import BENCHMARK
from tests.support.pages import ROOT
from tests.support.stores import Q4, Q8, publish
from tests.support.tiny_hub import MODEL, Q4_K_M, tiny_model, validate_snapshot

NEWER = Revision("b" * 40)


@pytest.fixture
def snapshots(clients: Clients, pulled: Manifest) -> list[Manifest]:
    """The promoted default, its next revision with the same weights, and another variant; each has a dossier."""
    (path,) = (file.path for file in pulled.files if file.path.endswith(".gguf"))
    newer = publish(clients.volume, NEWER, {path: tiny_model()}, Path(), model=MODEL, variant=Q8, age_s=1e9)
    other = publish(
        clients.volume, NEWER, {"tiny-Q4_K_M.gguf": tiny_model(file_type=Q4_K_M)}, Path(), model=MODEL, variant=Q4
    )
    for manifest in (pulled, newer, other):
        dossier.write_dossier(clients, manifest)
    return [pulled, newer, other]


def pages(clients: Clients, snapshots: list[Manifest]) -> list[str]:
    """The pages as they were written, each of which says what is known now."""
    written = [clients.volume.read_report(manifest.id, dossier.REPORT) or "" for manifest in snapshots]
    assert written == [dossier.markdown(dossier.read_dossier(clients, manifest)) for manifest in snapshots]
    values = [clients.volume.read_report(manifest.id, dossier.JSON_REPORT) or "" for manifest in snapshots]
    assert values == [dossier.read_dossier(clients, manifest).to_json() for manifest in snapshots]
    return written


def state(page: str) -> str:
    return page.split("**")[1].rstrip(".")


def states(clients: Clients, snapshots: list[Manifest]) -> list[str]:
    return [state(page) for page in pages(clients, snapshots)]


def test_a_promotion_and_a_rollback_change_the_dossiers_of_what_they_replace(
    clients: Clients, snapshots: list[Manifest]
) -> None:
    default, plain, none = "Promoted, as the model's default", "Promoted", "Not promoted"
    assert states(clients, snapshots) == [default, none, none]
    promote.promote_snapshot(clients, snapshots[1].id, "newer")
    assert states(clients, snapshots) == [none, default, none]
    promote.promote_snapshot(clients, snapshots[2].id, "smaller")
    assert states(clients, snapshots) == [none, plain, default]
    promote.roll_back(clients, Reference(MODEL), "larger again")
    assert states(clients, snapshots) == [none, default, plain]
    promote.roll_back(clients, Reference(MODEL, Q8), "older again")
    assert states(clients, snapshots) == [default, none, plain]


def test_a_validation_that_rejects_a_model_is_in_its_dossier(clients: Clients, snapshots: list[Manifest]) -> None:
    too_small = Target(2**10)
    with pytest.raises(DoesNotFit), dossier_kept_current(clients, snapshots[0].id.reference):
        require_sound(snapshots[0], validate_snapshot(clients, snapshots[0], target=too_small))
    assert "| Does it fit? | ✗ **no** |" in pages(clients, snapshots)[0]


def test_damage_and_its_repair_are_in_the_dossier(clients: Clients, snapshots: list[Manifest]) -> None:
    manifest = snapshots[0]
    (path,) = (file.path for file in manifest.files if file.path.endswith(".gguf"))
    flip(clients.volume.snapshot_path(manifest.id) / path, 1000)
    verify(clients, [manifest])
    damaged, *_ = pages(clients, snapshots)
    assert "✗ **no**" in damaged
    assert f"paddock verify {manifest.id.short} --repair" in damaged
    verify(clients, [manifest], repair_damage=True)
    assert "✗ **no**" not in pages(clients, snapshots)[0]


def test_the_command_shows_what_is_known_now(
    clients: Clients, snapshots: list[Manifest], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, id = snapshots[0], str(snapshots[0].id)
    record_benchmark(clients, manifest, BENCHMARK)
    document = dossier.read_dossier(clients, manifest)
    assert document.speed is not None
    volume.show(id, dossier=True)
    assert capsys.readouterr().out == dossier.markdown(document) + "\n"
    volume.show(id, dossier=True, as_json=True)
    assert dossier.DossierDocument.from_json(capsys.readouterr().out) == document
    dossier.refresh_dossier(clients, manifest)
    pages(clients, snapshots)


def test_a_snapshot_without_a_dossier_gets_none(clients: Clients, pulled: Manifest) -> None:
    assert dossier.refresh_dossier(clients, pulled) is None
    assert clients.volume.read_report(pulled.id, dossier.REPORT) is None


MEASURING = {"measure", "measure_quality", "measure_server", "validate"}
"""Functions that write a report which the dossier shows."""
REFRESHING = {"refresh_dossier", "dossier_kept_current"}
REPORTS = {"VALIDATION_REPORT", "QUALITY", "GATES", "BENCHMARK", "PICTURES", "APPROVAL", "report_name"}
"""The names of reports that are written, by their names in the code."""


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("paddock/cli/*.py"), *ROOT.glob("flows/*.py"), ROOT / "paddock/lifecycle/onboard.py"],
    ids=lambda path: path.stem,
)
def test_a_command_and_a_flow_that_measure_write_the_dossier_again(path: Path) -> None:
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef) or function.name in {"benchmark", "benchmark_on_gpu_worker"}:
            continue  # the benchmark of an onboarding, which ends with the dossier
        called = set().union(*(names(call) for call in calls(function)))
        assert not called & MEASURING or called & REFRESHING, f"{function.name} writes a report, and no dossier"


def test_every_report_that_is_written_is_known_here() -> None:
    """If the dossier shows another one, let whatever writes that write the dossier again."""
    written = {
        name
        for path in ROOT.glob("paddock/lifecycle/**/*.py")
        for call in calls(ast.parse(path.read_text()))
        if ast.unparse(call.func) in {"reports.write", "reports.record"}
        for name in names(call.args[2])
    }
    assert written - {"reports", "target", "measured"} <= REPORTS | {"_name"}
