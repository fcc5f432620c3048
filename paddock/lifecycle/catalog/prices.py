"""The prices of a catalog: what an hour of a machine costs, by target or by Prefect work pool.

    prices:
      this-machine: 0.05
      rtx-4090: 0.40
      paddock-gpu: 2.10

Prices are plain numbers, all in one currency of the reader's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Annotated, Any, Final

from pydantic import Field

from paddock.errors import BadSetting
from paddock.lifecycle.catalog.yaml_tree import Node, shown, value_of
from paddock.planning.targets import ANY, CARDS_MIB, THIS_MACHINE, parse_target
from paddock.settings.values import MAX_PRICE, MIN_PRICE, PRICE_EXPECTED, is_price

POOLS: Final = ("paddock-io", "paddock-gpu", "paddock-serve")
"""The work pools of `prefect.yaml`."""
CatalogPrices = dict[str, Annotated[float, Field(ge=MIN_PRICE, le=MAX_PRICE)]]

_CURE: Final = "write a number such as 0.40, without a currency"
_Report = Callable[[Node, str, str], None]


def read_prices(node: Node, report: _Report) -> dict[str, float]:
    """The sound prices of the key `prices`, by target or pool in lower case. `report(node, message, cure)` is called
    for each problem."""
    if node.is_null:
        return {}
    if node.kind != "mapping":
        what = "a list" if node.kind == "list" else f"the text `{shown(node.text)}`"
        report(node, f"`prices` is {what}, and a mapping of targets or pools to prices is expected", "")
        return {}
    found: dict[str, float] = {}
    lines: dict[str, int] = {}
    for key, value in node.pairs:
        if key.kind != "scalar":  # reported by the parser
            continue
        name = key.text.strip().lower()
        wrong_name = _wrong_name(name)
        price = _number(value)
        quoted = f"`prices.{shown(key.text)}`"
        if wrong_name:
            report(key, *wrong_name)
        elif lines.setdefault(name, key.line) != key.line or name in found:
            report(key, f"{quoted} is here twice, first in line {lines[name]}", "remove one of them")
        elif price is None:
            written = f"`{shown(value.text)}`" if value.kind == "scalar" and value.text else "no number"
            report(value, f"{quoted} is {written}, and {PRICE_EXPECTED} is expected", _CURE)
        else:
            found[name] = price
    return found


def prices_schema(description: str) -> dict[str, Any]:
    """The JSON schema of the key, for editors."""
    return {
        "description": description,
        "type": ["object", "null"],
        "additionalProperties": {"type": "number", "minimum": MIN_PRICE, "maximum": MAX_PRICE},
        "examples": [{THIS_MACHINE: 0.05, "rtx-4090": 0.40, "paddock-gpu": 2.10}],
    }


def _wrong_name(name: str) -> tuple[str, str] | None:
    """(message, cure) for a name that is neither a pool nor a target."""
    if name in POOLS:
        return None
    try:
        parse_target(name)
    except BadSetting as error:
        close = get_close_matches(name, [*POOLS, THIS_MACHINE, ANY, *CARDS_MIB], n=1)
        cure = f"did you mean `{close[0]}`?" if close else f"{error.cure}; or a pool: {', '.join(POOLS)}"
        return f"`prices.{shown(name)}` is neither a target nor a work pool", cure
    return None


def _number(value: Node) -> float | None:
    number = value_of(value)
    return float(number) if is_price(number) else None
