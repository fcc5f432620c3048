from __future__ import annotations

import os

import psutil

from paddock.model.gpu import Gpu
from paddock.model.hardware import Machine, this_machine


def test_this_machine_is_detected_within_the_limits_of_the_hardware() -> None:
    machine = this_machine()
    assert machine.cpu
    assert 1 <= machine.cores <= len(os.sched_getaffinity(0))
    assert 0 < machine.ram_available_bytes <= machine.ram_bytes <= psutil.virtual_memory().total


def test_cores_outside_the_affinity_are_not_counted() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert this_machine().cores == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_machine_is_equal_after_a_round_trip_through_json() -> None:
    machine = Machine("a cpu", 8, 2**36, 2**35, (Gpu("a gpu", 2**34, 2**33, 10**12), Gpu("another", 2**34, 2**34)))
    assert Machine.from_json(machine.to_json()) == machine
