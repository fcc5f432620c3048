"""Check whether Paddock can work here: the volume, S3, the Hub, the engine, the process and the catalog."""

from __future__ import annotations

from typing import Final

from paddock.lifecycle.upkeep.doctor.check import Check, CheckResult, Diagnosis, run_checks
from paddock.lifecycle.upkeep.doctor.confinement import check_confinement
from paddock.lifecycle.upkeep.doctor.engine import check_engine, check_llama_server, check_measurements
from paddock.lifecycle.upkeep.doctor.process import (
    check_catalog_file,
    check_open_files,
    check_temporary_files,
    check_transfer,
)
from paddock.lifecycle.upkeep.doctor.services import check_hub, check_s3
from paddock.lifecycle.upkeep.doctor.volume import check_access, check_room, check_umask, check_volume

CHECKS: Final[tuple[Check, ...]] = (
    check_volume,
    check_room,
    check_access,
    check_umask,
    check_s3,
    check_hub,
    check_transfer,
    check_engine,
    check_llama_server,
    check_confinement,
    check_measurements,
    check_open_files,
    check_temporary_files,
    check_catalog_file,
)
"""The checks in the order in which their results are shown. Each sends its own requests, and needs no other."""

__all__ = ["CHECKS", "Check", "CheckResult", "Diagnosis", "run_checks"]
