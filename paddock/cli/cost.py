"""Command on what a stored model costs: cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from paddock.cli.model_argument import parse_stored_model
from paddock.cli.options import Json, ModelArgument, make_clients
from paddock.cli.output import print_result

if TYPE_CHECKING:
    from paddock.measure.cost import CostRow, ModelCost

_NOT_MEASURED = "not measured"
_COLUMNS = (
    "variant",
    "machine",
    "decode, tokens/s",
    "prefill, tokens/s",
    "memory",
    "KL divergence",
    "price in",
    "price out",
    "kWh in",
    "kWh out",
    "on the front",
)


def cost(
    model: ModelArgument,
    price: Annotated[
        str | None,
        typer.Option(
            "--price",
            metavar="P",
            help="Price of an hour of each machine, such as 2.10; by default those that are set.",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Show what a million tokens cost, by variant and machine.

    Speeds, memory and quality are those that were measured before. A variant is on the front if no other one is at
    least as good in quality, speed, memory and price.
    """
    from paddock.lifecycle.run.cost import cost_of_reference
    from paddock.settings.values import parse_price

    try:
        price_per_hour = None if price is None else parse_price(price)
    except ValueError as error:
        raise typer.BadParameter(f"--price is {price!r}: {error}") from None
    clients = make_clients()
    found = cost_of_reference(clients, parse_stored_model(clients, model), price_per_hour=price_per_hour)
    print_result(as_json, found.to_json(), lambda: _render(found))
    return 0


def _render(found: ModelCost) -> None:
    from paddock.cli.printing import print_line, print_table

    print_table(_COLUMNS, [_cells(row, found.reference) for row in found.rows])
    print_line("prices and energy are those of a million tokens in (prefill) and out (decode), one request at a time")
    for row in found.rows:
        for level in row.under_load:
            at = f"{row.name} on {row.machine}, {level.concurrency} at once"
            price = "no price" if level.price_out is None else f"{_amount(level.price_out)} for a million tokens out"
            print_line(f"{at}: {level.tok_per_s:.1f} tokens/s, {price}{'' if row.reliable else ' (not reliable)'}")
    priced = {(row.machine, row.price_per_hour, row.price_source) for row in found.rows if row.price_per_hour}
    for machine, price_per_hour, source in sorted(priced):
        print_line(f"an hour of {machine} is taken at {price_per_hour:g}: {source}")
    if found.reference:
        print_line(f"KL divergence from {found.reference}")
    print_line(f"the front is by {', '.join(found.criteria)}" if found.criteria else "nothing can be compared")
    for note in found.notes:
        print_line(note)


def _cells(row: CostRow, reference: str | None) -> tuple[str, ...]:
    from paddock.measure.cost import kwh
    from paddock.model.units import human_bytes

    mark = "" if row.reliable else " (not reliable)"
    speeds = (row.decode_tok_per_s, row.prefill_tok_per_s)
    no_price = "no price" if row.price_per_hour is None else _NOT_MEASURED
    energies = (row.joules_in, row.joules_out)
    return (
        f"{row.variant}@{row.revision[:8]}",
        row.machine,
        *(_NOT_MEASURED if speed is None else f"{speed:.1f}{mark}" for speed in speeds),
        human_bytes(row.memory_bytes),
        _quality(row, reference),
        *(no_price if price is None else f"{_amount(price)}{mark}" for price in (row.price_in, row.price_out)),
        *(_NOT_MEASURED if joules is None else f"{_amount(kwh(joules))}{mark}" for joules in energies),
        _front(row),
    )


def _quality(row: CostRow, reference: str | None) -> str:
    if reference is not None and reference.endswith(f":{row.variant}@{row.revision}"):
        return "the reference"
    return _NOT_MEASURED if row.kl_mean is None else f"{row.kl_mean:.5f}"


def _amount(amount: float) -> str:
    """With three significant digits at least, and two decimals."""
    digits = 2
    while digits < 12 and amount < 10 ** (2 - digits):
        digits += 1
    return f"{amount:.{digits}f}"


def _front(row: CostRow) -> str:
    if row.on_front is not None:
        return "yes" if row.on_front else f"no: {'; '.join(row.dominated_by)}"
    return f"not compared: no {', '.join(row.missing)}" if row.missing else "not compared: not reliable"
