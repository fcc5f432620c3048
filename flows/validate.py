"""Judge a snapshot on the volume."""

from __future__ import annotations

from prefect import flow

from flows.parameters import ContextTokens, Model, RevisionName, Target
from paddock.lifecycle.assess.validate import Validation, validate
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
    """Judge a snapshot on the volume: integrity, structure and templates, configuration, how it is spoken with, the
    laws that its tables keep, and compatibility with the engine and the memory there is.

    Args:
        model: The repository on the Hub, `org/name`, or one variant of it, `org/name:Q4_K_M`.
        revision: A branch, a tag or a commit that is on the volume; when not given, what is promoted.
        context_tokens: The context that the memory is asked for, in tokens. A model trained for less is asked for that.
        target: `this-machine`, `any`, or the machine that will serve: a card such as `rtx-4090`, `2x-a100-80gb` or
            `24GiB-gpu`, or the memory of one without a GPU, such as `64GiB`.
    """
    return validate(PrefectRunner(target), reference(model, revision), context_tokens, target=target)
