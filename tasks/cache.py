"""The step that copies a snapshot to S3."""

from __future__ import annotations

from prefect import get_run_logger, task

from paddock.lifecycle.promotion import tell_s3
from paddock.model.artifact import Manifest
from paddock.model.units import human_bytes
from paddock.store.copying import Copied
from paddock.store.copying import push as copy_to_s3
from tasks import policies, record
from tasks.wiring import parts


@task(task_run_name="push", **policies.STORE)
def push(manifest: Manifest) -> Copied | None:
    """Copy the blobs that S3 has not, then the manifest. None where no S3 is set."""
    known = parts()
    if known.s3 is None:
        get_run_logger().info("PADDOCK_S3_URI is not set: the volume is the only copy")
        record.copy(manifest, None, where="no S3 is set")
        return None
    copied = copy_to_s3(known.volume, known.s3, manifest)
    tell_s3(known, manifest.model)
    record.copy(manifest, copied, where=known.s3.label)
    sent, rate = human_bytes(copied.bytes_transferred), human_bytes(round(copied.rate_bytes_per_s))
    there = f"{copied.already} of {copied.already + copied.blobs} blobs were there already"
    get_run_logger().info("%s: %s sent at %s/s, %s", known.s3.label, sent, rate, there)
    return copied
