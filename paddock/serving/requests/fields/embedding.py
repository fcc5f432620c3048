"""Requests for embeddings of texts, and for scores of documents (reranking)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from paddock.serving.requests.fields.base import MAX_INT32, Fields, TokenId, Whole, invalid, unsupported
from paddock.serving.requests.fields.sampling import check_token_ids

MAX_INPUTS: Final = 2048
ModelField = Annotated[str, Field(max_length=500)] | None


class EmbeddingRequest(Fields):
    """`input` is a text, a list of tokens, or a list of texts or of lists of tokens; it is kept as a list of these."""

    model: ModelField = None
    input: Annotated[list[str], Field(min_length=1)] | list[list[TokenId]]
    encoding_format: Literal["float", "base64"] | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        inputs = [value] if isinstance(value, str) else value
        if not isinstance(inputs, list) or not inputs:
            raise invalid("it has to be a text, a list of tokens, or a list of texts or of lists of tokens")
        if isinstance(inputs[0], int) and not isinstance(inputs[0], bool):
            inputs = [inputs]
        if len(inputs) > MAX_INPUTS:
            raise invalid(f"there are {len(inputs)} inputs, allowed are {MAX_INPUTS}")
        kinds = {type(one) for one in inputs}
        if kinds not in ({str}, {list}):
            raise invalid("all inputs have to be texts, or all lists of tokens")
        if [] in inputs:
            raise invalid("a list of tokens is empty")
        return inputs

    @field_validator("input")
    @classmethod
    def _check_vocabulary(cls, value: list[Any], info: ValidationInfo) -> list[Any]:
        for one in value:
            if isinstance(one, list):
                check_token_ids(one, info)
        return value

    def engine_fields(self) -> dict[str, Any]:
        return {"input": self.input, "encoding_format": self.encoding_format or "float"}


class Document(Fields):
    text: str


class RerankRequest(Fields):
    """The form of Jina's and Cohere's APIs. A document is a text, or an object with it."""

    model: ModelField = None
    query: str
    documents: Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]
    top_n: Annotated[Whole, Field(ge=1, le=MAX_INT32)] | None = None
    return_documents: bool | None = None

    @field_validator("documents", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [one["text"] if isinstance(one, dict) and set(one) == {"text"} else one for one in value]

    @field_validator("return_documents")
    @classmethod
    def _refuse_documents(cls, value: bool | None) -> bool | None:
        if value:
            raise unsupported("documents are not returned: use their index")
        return value

    def engine_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"query": self.query, "documents": self.documents}
        return fields if self.top_n is None else {**fields, "top_n": self.top_n}
