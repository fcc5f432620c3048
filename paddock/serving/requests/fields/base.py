"""Base class and types of the fields of requests.

Types are strict: no text is taken for a number. Any optional field may be null, which means the same as leaving it out.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from paddock.serving.refusal import UNSUPPORTED

MAX_INT32: Final = 2**31 - 1


class Fields(BaseModel):
    """Fields of an object in a request. Any other field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    def given(self) -> dict[str, Any]:
        """The fields that are not null, as JSON values."""
        return self.model_dump(mode="json", exclude_none=True)


def _whole(value: Any) -> Any:
    """Take `100.0` for an integer: several languages know one type of number only."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""An integer. Its bounds follow as `Field(ge=..., le=...)`."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[Whole, Field(ge=0, le=MAX_INT32)]


def unsupported(message: str, *, param: str | None = None) -> PydanticCustomError:
    """The error of a validator for a value that asks for something that is not done here. `param` names the field
    relative to the validated object, where a validator of the whole object raises."""
    return PydanticCustomError(UNSUPPORTED, "{reason}", {"reason": message, "param": param})


def invalid(message: str, *, param: str | None = None) -> PydanticCustomError:
    """The error of a validator for a value that is not valid. `param`: see `unsupported`."""
    return PydanticCustomError("invalid", "{reason}", {"reason": message, "param": param})
