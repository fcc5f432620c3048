"""The prices of a catalog: by target or work pool, and every problem with its line."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest
from ruamel.yaml import YAML

from infra.bootstrap import POOLS as BOOTSTRAPPED
from paddock.lifecycle.catalog import CatalogEntry, check_catalog, parse_catalog
from paddock.lifecycle.catalog.edit import add_entry, schema_text
from paddock.lifecycle.catalog.prices import POOLS
from paddock.model.names import ModelName

TEXT = """\
prices: # in euros
  this-machine: 0.05
  RTX-4090: 0.40
  paddock-gpu: 2
models:
  - model: org/name
"""


def problems(text: str) -> list[str]:
    return [str(problem) for problem in check_catalog(text.encode(), "catalog.yaml").problems]


def test_prices_are_read_by_target_and_by_pool() -> None:
    catalog = parse_catalog(TEXT.encode(), "catalog.yaml")
    assert catalog.prices == {"this-machine": 0.05, "rtx-4090": 0.40, "paddock-gpu": 2.0}
    assert len(catalog.entries) == 1


@pytest.mark.parametrize("text", ["models:\n", "models:\nprices:\n", "models:\nprices: {}\n"])
def test_a_catalog_may_have_none(text: str) -> None:
    assert parse_catalog(text.encode(), "catalog.yaml").prices == {}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("rtx-4O90: 1", "`prices.rtx-4o90` is neither a target nor a work pool (did you mean `rtx-4090`?)"),
        ("paddock-gpus: 1", "neither a target nor a work pool (did you mean `paddock-gpu`?)"),
        ("rtx-4090: 0", "`prices.rtx-4090` is `0`, and a number from 0.000001 to 10000000 is expected (write a number"),
        ("rtx-4090: -0.4", "is `-0.4`, and a number"),
        ("rtx-4090: .nan", "is `.nan`, and a number"),
        ("rtx-4090: .inf", "is `.inf`, and a number"),
        ("rtx-4090: 1e300", "is `1e300`, and a number"),
        ("rtx-4090: 1e-9", "is `1e-9`, and a number"),
        ("rtx-4090: true", "is `true`, and a number"),
        ('rtx-4090: "0.4"', "is `0.4`, and a number"),
        ("rtx-4090: 0.40 EUR", "is `0.40 EUR`, and a number"),
        ("rtx-4090:", "is no number, and a number"),
        ("rtx-4090: [1]", "is no number, and a number"),
        ('"\\e[31m": 1', r"`prices.\x1b[31m` is neither"),
        ("17x-rtx-4090: 1", "is neither a target nor a work pool"),
    ],
)
def test_a_problem_is_named_with_its_line(line: str, problem: str) -> None:
    (found,) = problems(f"models:\nprices:\n  any: 1\n  {line}\n")
    assert found.startswith("line 4, column ")
    assert problem in found


def test_a_machine_that_is_there_twice_in_another_case_is_found() -> None:
    (found,) = problems("models:\nprices:\n  RTX-4090: 1\n  rtx-4090: 2\n")
    assert "`prices.rtx-4090` is here twice, first in line 3 (remove one of them)" in found


@pytest.mark.parametrize(("value", "what"), [("[1]", "a list"), ("cheap", "the text `cheap`")])
def test_what_is_no_mapping_is_refused(value: str, what: str) -> None:
    (found,) = problems(f"models:\nprices: {value}\n")
    assert f"`prices` is {what}, and a mapping of targets or pools to prices is expected" in found


def test_a_misspelt_key_is_recognised() -> None:
    (found,) = problems("models:\nprice: {any: 1}\n")
    assert "did you mean `prices`?" in found


def test_adding_a_model_leaves_the_prices_as_they_are() -> None:
    entry = CatalogEntry(model=ModelName("org", "another"))
    assert add_entry(TEXT.encode(), "catalog.yaml", entry, {}).text == TEXT + "  - model: org/another\n"


def test_the_pools_are_those_that_are_made() -> None:
    assert set(POOLS) == set(BOOTSTRAPPED)


def test_the_schema_says_the_same() -> None:
    schema: Any = json.loads(schema_text())
    yaml = YAML(typ="safe")
    jsonschema.validate(yaml.load(TEXT), schema)
    jsonschema.validate(yaml.load("models:\nprices:\n"), schema)
    for prices in ("{any: 0}", "{any: cheap}", "[1]"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.load(f"models:\nprices: {prices}\n"), schema)
