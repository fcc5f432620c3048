"""Compute the schedules of deployments from the settings, as build steps of prefect.yaml.

A build step runs when a flow is deployed, and the deployment's schedule takes its output, so that `prefect deploy` and
the bootstrap read the same setting. Prefect's own `{{ $VARIABLE }}` has no default for a variable that is not set.
"""

from __future__ import annotations

from paddock import settings
from paddock.errors import BadSetting


def maintenance_schedule() -> dict[str, str]:
    """The `cron` expression of the weekly maintenance. Raises BadSetting for one that Prefect refuses."""
    from prefect.client.schemas.schedules import CronSchedule

    cron = settings.load().maintenance_cron
    try:
        CronSchedule(cron=cron, timezone="Etc/UTC")
    except ValueError:
        raise BadSetting(
            "the setting PADDOCK_MAINTENANCE_CRON is not usable: it is no cron expression",
            cure="set it to five fields, such as `30 3 * * 0` for Sundays at 03:30, or unset it",
        ) from None
    return {"cron": cron}
