"""An entry of the catalog: its keys, their types and bounds, and the JSON schema of them for editors."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from paddock.errors import UnsafeName
from paddock.lifecycle.catalog.prices import CatalogPrices, prices_schema
from paddock.model.names import ModelName, parse_ref
from paddock.model.reference import Reference, Variant, parse_variant
from paddock.planning.profile import ProfileName
from paddock.planning.targets import THIS_MACHINE, parse_target

AUTO: Final = "auto"
GateName = Literal["decode", "prefill", "time_to_first_token", "memory", "kl_ratio", "agreement", "roleplay"]
Undecided = Literal["pass", "block"]
GATES: Final[tuple[str, ...]] = get_args(GateName)
"""The names of the gates, whose bounds an entry may override."""


def _model(value: object) -> ModelName:
    if isinstance(value, ModelName):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "a text is expected")
    try:
        return ModelName.parse(value)
    except UnsafeName:
        _refuse_reference(value)
        raise


def _refuse_reference(text: str) -> None:
    """Say which keys to write, for a model that is written as on the command line."""
    try:
        wanted = Reference.parse(text)
    except UnsafeName:
        return
    keys = [f"`model: {wanted.model}`"]
    keys += [f"`variant: {wanted.variant}`"] if wanted.variant else []
    keys += [f"`channel: {wanted.ref}`"] if wanted.ref else []
    raise UnsafeName(f"the model {text!r} holds a variant or revision", cure=f"write {', '.join(keys)}")


def _variant(value: str) -> str:
    return AUTO if value == AUTO else parse_variant(value)


def _target(value: str) -> str:
    parse_target(value)
    return value


class CatalogEntry(BaseModel):
    """A model that is wanted. Where `context_tokens` and `keep` are None, the profile and PADDOCK_KEEP_REVISIONS
    decide."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", arbitrary_types_allowed=True)

    model: Annotated[ModelName, BeforeValidator(_model), WithJsonSchema({"type": "string", "maxLength": 193})] = Field(
        description="The repository on the Hub, org/name.", examples=["org/name-GGUF"]
    )
    channel: Annotated[str, AfterValidator(parse_ref)] = Field(
        default="main", description="The branch, tag or commit that it follows."
    )
    variant: Annotated[str, AfterValidator(_variant)] = Field(
        default=AUTO,
        description="A variant's name, or auto: the best one that fits the target.",
        examples=[AUTO, "Q4_K_M"],
    )
    target: Annotated[str, AfterValidator(_target)] = Field(
        default=THIS_MACHINE,
        description="The machine that it has to fit.",
        examples=[THIS_MACHINE, "any", "64GiB", "rtx-4090", "24GiB-gpu"],
    )
    default: bool = Field(default=False, description="Whether it moves the model's default variant.")
    context_tokens: int | None = Field(
        default=None, ge=256, le=1_048_576, description="Tokens of context that must fit; without it the profile's."
    )
    profile: ProfileName = Field(default="chat", description="The use of the model.")
    required: bool = Field(default=False, description="Whether a refresh fails when this model fails.")
    approval: bool = Field(default=False, description="Whether a person approves each promotion.")
    keep: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="How many of the newest distinct weights stay, 0 for all; without it PADDOCK_KEEP_REVISIONS.",
    )
    gates: dict[GateName, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="Bounds of gates that replace the defaults."
    )
    undecided: Undecided = Field(
        default="pass", description="Whether a gate that could not decide passes, with a warning, or blocks."
    )

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The identity of an entry: model, channel, variant and target. Case counts in a channel alone."""
        names = str(self.model), self.variant, self.target.strip()
        model, variant, target = (name.casefold() for name in names)
        return model, self.channel, variant, target

    @property
    def name(self) -> str:
        """`org/name[:VARIANT]@CHANNEL`, for messages."""
        variant = f":{self.variant}" if self.wanted_variant else ""
        return f"{self.model}{variant}@{self.channel}"

    @property
    def wanted_variant(self) -> Variant | None:
        """The variant that it names; None for `auto`."""
        return None if self.variant == AUTO else Variant(self.variant)

    def to_json(self) -> dict[str, Any]:
        return {**self.model_dump(), "model": str(self.model)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CatalogEntry:
        return cls.model_validate(value)


class CatalogFile(BaseModel):
    """The keys of the file."""

    model_config = ConfigDict(extra="forbid", title="Catalog of Paddock")

    models: list[CatalogEntry] | None = Field(description="The models that are wanted.")
    prices: CatalogPrices | None = Field(
        default=None, description="What an hour of a machine costs, by target or work pool, in one currency."
    )


def catalog_schema() -> dict[str, Any]:
    """The JSON schema of a catalog."""
    schema = CatalogFile.model_json_schema()
    entry = schema["$defs"]["CatalogEntry"]
    entry["description"] = "A model that is wanted."
    for value in entry["properties"].values():
        value.pop("title", None)
        options = value.pop("anyOf", None)
        if options:  # None stands for a key that is not there
            value.update(next(option for option in options if option != {"type": "null"}))
            value.pop("default", None)
    gates = entry["properties"]["gates"]
    entry["properties"]["gates"] = {
        "description": gates["description"],
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {name: {"type": "number", "minimum": 0} for name in GATES},
    }
    prices = schema["properties"]["prices"]
    schema["properties"]["prices"] = prices_schema(prices["description"])
    schema.pop("description", None)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
