"""Maintain the volume: remove orphans, scrub and repair, evict, and record the volume's use."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.parameters import ByteCount, BytesPerSecond, Hours
from paddock.lifecycle.upkeep.maintain import Maintained, MaintenanceRequest, maintain
from tasks import policies
from tasks.runner import PrefectRunner


@flow(flow_run_name="maintain the volume", **policies.FLOW)
def maintain_volume(
    repair: bool = True,
    limit_rate: BytesPerSecond | None = None,
    max_hours: Hours | None = None,
    keep_bytes: ByteCount | None = None,
    s3_keep_bytes: ByteCount | None = None,
) -> Maintained | State[Maintained]:
    """Remove orphans, read stored bytes again and repair what is damaged, and evict what may go, on the worker's volume
    and in S3. Every step is carried out; the run fails at its end if one failed, or if damage stays.

    Args:
        repair: Whether to fetch damaged segments again, from S3, the Hub or the volume.
        limit_rate: Limit of the rate at which stored bytes are read, in bytes per second, from 1024 on. By default no
            limit.
        max_hours: Time limit for reading stored bytes, in hours, up to 720. The next run continues there. By default no
            limit.
        keep_bytes: Bytes that may stay on the volume after eviction. By default as the worker's settings say.
        s3_keep_bytes: Bytes that may stay in S3 after eviction. By default as the worker's settings say.
    """
    request = MaintenanceRequest(
        repair=repair,
        limit_bytes_per_s=limit_rate,
        max_seconds=None if max_hours is None else max_hours * 3600,
        keep_bytes=keep_bytes,
        remote_keep_bytes=s3_keep_bytes,
    )
    maintained = maintain(PrefectRunner(), request)
    if maintained.held_by is not None:
        return Completed(name="Skipped", message=maintained.line, data=maintained)
    return maintained
