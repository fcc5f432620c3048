"""Validate a snapshot on the volume."""

from __future__ import annotations

from prefect import flow

from flows.parameters import ContextTokens, Model, RevisionName, Target
from paddock.lifecycle.assess.validate import Validation, validate
from paddock.lifecycle.dossier import dossier_kept_current
from tasks import policies
from tasks.runner import PrefectRunner
from tasks.wiring import reference


@flow(flow_run_name="validate {model}", **policies.FLOW)
def validate_model(
    model: Model,
    revision: RevisionName | None = None,
    context_tokens: ContextTokens = 4096,
    target: Target = "this-machine",
) -> Validation:
    """Validate a snapshot on the volume, and write its verdict.

    Checks its integrity, GGUF structure, configuration and chat template, the expectations on its tables, and its
    compatibility with the engine and the memory of the target.

    Args:
        model: Repository on the Hub, `org/name`, or one of its variants, `org/name:Q4_K_M`.
        revision: Branch, tag or commit, on the volume. By default the promoted one.
        context_tokens: Context that must fit, 256 to 1048576 tokens. For a model that was trained for less, its trained
            context.
        target: Machine that the model must fit: `this-machine`, `any`, GPUs such as `rtx-4090`, `2x-a100-80gb` or
            `24GiB-gpu`, or the memory of a machine without a GPU, such as `64GiB`.
    """
    runner, wanted = PrefectRunner(target), reference(model, revision)
    with dossier_kept_current(runner.clients, wanted):
        return validate(runner, wanted, context_tokens, target=target)
