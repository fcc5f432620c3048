"""A hostile engine reaches nothing of its parent, of the user, of the network, as root and as a user.

The probe runs in the place of the engine's library and of llama-server, started by Paddock's own code. Each attempt is
made without confinement, too, where it succeeds. Of another llama-server it is not known what it is built for, so that
the probe in its place is confined as an engine for GPUs is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest

from paddock.confinement import UNPRIVILEGED_USER
from paddock.confinement.landlock import abi_version
from tests.support.confined import outcomes

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may run a test as root and as another user"),
    pytest.mark.skipif(abi_version() < 6, reason="the kernel's Landlock is older than version 6: use Linux 6.12"),
]
_USER = 61_003
_CHILDREN = ("worker", "llama-server")


@pytest.fixture(scope="module", params=[0, _USER], ids=["root", "user"])
def found(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    return outcomes(request.param)


def test_every_attempt_succeeds_without_confinement(found: Mapping[str, Any]) -> None:
    assert set(found["unconfined"]["tried"].values()) == {"reached"}


@pytest.mark.parametrize("child", _CHILDREN)
def test_a_hostile_engine_reaches_no_file_process_or_network(found: Mapping[str, Any], child: str) -> None:
    reached = {name for name, outcome in found[child]["tried"].items() if outcome == "reached"}
    assert reached == set()
    assert len(found[child]["tried"]) > 35


def test_even_an_unconfined_child_of_the_same_user_cannot_read_an_unreadable_parent(found: Mapping[str, Any]) -> None:
    is_root = found["unconfined"]["identity"]["Uid"].startswith("0\t")  # it may read every process
    reached = {name for name, outcome in found["guarded"]["tried"].items() if outcome == "reached"}
    of_the_parent = {f"read /proc/parent/{name}" for name in ("environ", "maps", "mem")} | {
        *("list /proc/parent/fd", "read the parent's memory", "trace the parent", "take the parent's descriptor")
    }
    assert reached & of_the_parent == (of_the_parent if is_root else set())
    assert "read /proc/parent/cmdline" in reached


@pytest.mark.parametrize("child", _CHILDREN)
def test_a_confined_engine_opens_and_maps_its_model(found: Mapping[str, Any], child: str) -> None:
    assert set(found[child]["allowed"].values()) == {"reached"}


@pytest.mark.parametrize("child", _CHILDREN)
def test_a_confined_engine_has_no_capability_and_is_not_root(found: Mapping[str, Any], child: str) -> None:
    identity = found[child]["identity"]
    user = UNPRIVILEGED_USER if found["unconfined"]["identity"]["Uid"].startswith("0\t") else _USER
    assert identity["Uid"] == "\t".join([str(user)] * 4)
    assert [int(identity[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")] == [0, 0, 0]
    assert identity["NoNewPrivs"] == "1"
    if user == UNPRIVILEGED_USER:
        assert int(identity["CapBnd"], 16) == 0
        assert identity["Groups"].strip() == ""
