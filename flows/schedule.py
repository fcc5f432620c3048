"""Compute the schedules of deployments from the settings, as build steps of prefect.yaml.

A build step runs when a flow is deployed, and the deployment's schedule takes its output, so that `prefect deploy` and
the bootstrap read the same setting. Prefect's own `{{ $VARIABLE }}` has no default for a variable that is not set.
"""

from __future__ import annotations

from paddock import settings
from paddock.errors import BadSetting


def maintenance_schedule() -> dict[str, str]:
    """The `cron` expression of the weekly maintenance. Raises BadSetting for one that Prefect refuses."""
    return _checked("PADDOCK_MAINTENANCE_CRON", settings.load().maintenance_cron, "`30 3 * * 0` for Sundays at 03:30")


def refresh_schedule() -> dict[str, str]:
    """The `cron` expression of the nightly refresh. Raises BadSetting for one that Prefect refuses."""
    return _checked("PADDOCK_REFRESH_CRON", settings.load().refresh_cron, "`30 1 * * *` for each night at 01:30")


def _checked(setting: str, cron: str, example: str) -> dict[str, str]:
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron, timezone="Etc/UTC")
    except ValueError:
        raise BadSetting(
            f"the setting {setting} is not usable: it is no cron expression",
            cure=f"set it to five fields, such as {example}, or unset it",
        ) from None
    return {"cron": cron}
