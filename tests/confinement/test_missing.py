"""Without Landlock or seccomp the engine runs with what there is, and `doctor` names the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.confinement import UNPRIVILEGED_USER, seccomp
from paddock.confinement.policy import Confinement
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep.doctor.confinement import check_confinement, confinement_results
from paddock.serving.engine.llama_server import find_program
from tests.support.doctor import changed, here, states

__all__ = ["here"]

_ROOT = Path(__file__).parents[2]
_DESCRIBE = """
import json, sys
from tests.support.refused_calls import refuse
refuse(int(number) for number in sys.argv[1].split(","))
from paddock.engine.facts import describe_confinement, known_architectures
known = known_architectures(["llama"])
print(json.dumps([describe_confinement().to_json(), known]))
"""
_LANDLOCK, _SECCOMP, _UNSHARE = 444, seccomp._CALL[os.uname().machine], 272 if os.uname().machine == "x86_64" else 97
WHOLE = Confinement(user=UNPRIVILEGED_USER, capabilities=0, bounding=0, landlock=6, seccomp=True)


@pytest.mark.parametrize(
    ("refused", "left"),
    [
        pytest.param([_LANDLOCK], {"landlock": 0, "seccomp": True, "namespaces": True}, id="no Landlock"),
        pytest.param(
            [_LANDLOCK, _SECCOMP, _UNSHARE], {"landlock": 0, "seccomp": False, "namespaces": False}, id="nothing"
        ),
    ],
)
def test_the_engine_runs_with_what_the_kernel_has_and_doctor_names_the_rest(
    refused: list[int], left: dict[str, object], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DESCRIBE, ",".join(map(str, refused))],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, known = json.loads(done.stdout)
    assert known == {"llama": True}
    assert {name: found[name] for name in left} == left
    assert found["capabilities"] == 0
    names = {"confinement: files"} | (set() if left["seccomp"] else {"confinement: system calls"})
    results = confinement_results(Confinement.from_json(found))
    assert {result.name for result in results} >= names
    assert all(result.cure and not result.needed and not result.ok for result in results)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(WHOLE, {"confinement": "ok"}, id="all"),
        pytest.param(WHOLE._replace(user=1000), {"confinement": "ok"}, id="a user"),
        pytest.param(WHOLE._replace(user=0), {"confinement: user": "warning"}, id="root"),
        pytest.param(WHOLE._replace(landlock=0), {"confinement: files": "warning"}, id="no Landlock"),
        pytest.param(WHOLE._replace(seccomp=False), {"confinement: system calls": "warning"}, id="no seccomp"),
    ],
)
def test_doctor_has_a_result_for_each_protection(found: Confinement, expected: dict[str, str]) -> None:
    assert states(confinement_results(found)) == expected
    assert Confinement.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.skipif(os.geteuid() != 0, reason="a file that root alone may read is needed")
def test_doctor_names_a_llama_server_that_loads_what_is_out_of_its_reach_and_the_cure_helps(
    here: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, loaded = tmp_path / "bin" / "llama-server", tmp_path / "driver" / "version"
    for path in (program, loaded):
        path.parent.mkdir()
    loaded.write_text("version: 7\n")
    program.write_text(f"#!/bin/sh\nread line < {loaded} && echo $line\n")
    program.chmod(0o755)
    clients = changed(here, llama_server=program)
    results = check_confinement(clients)
    assert states(results) == {"confinement": "ok", "confinement: llama-server": "failed"}
    assert "PADDOCK_ENGINE_READS" in results[-1].cure
    monkeypatch.setenv("PADDOCK_ENGINE_READS", str(loaded.parent))
    assert states(check_confinement(clients)) == {"confinement": "ok"}
    assert find_program(program).confined_version() == "7"
