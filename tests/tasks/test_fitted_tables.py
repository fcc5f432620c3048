"""Tables of Markdown that fit a page of Prefect: what is too wide is a list."""

from __future__ import annotations

from paddock.model.markdown import as_text, table
from tasks.fitted_tables import fits, fitted_table, with_fitted_tables

HEAD = ("gate", "outcome", "bound")
SHORT = ("decode", "passed", "at least 0.9")
LONG = ("kl_ratio", "**held back**", "at most 1.5 " * 9)
NARROW = table(HEAD, [SHORT, SHORT])


def test_a_table_that_fits_stays_as_it_is() -> None:
    assert fits(HEAD, [SHORT])
    assert fitted_table(HEAD, [SHORT, SHORT]) == NARROW
    assert with_fitted_tables(f"# A\n\n{NARROW}\n\nB") == f"# A\n\n{NARROW}\n\nB"


def test_a_row_that_is_too_wide_is_listed_below_the_table() -> None:
    assert not fits(HEAD, [SHORT, LONG])
    listed = f"- **kl_ratio**: **held back**; bound: {LONG[2].strip()}"
    page = with_fitted_tables(f"A\n\n{table(HEAD, [SHORT, LONG, SHORT])}\n\nB")
    assert page == f"A\n\n{NARROW}\n\n{listed}\n\nB"


def test_a_table_of_mostly_wide_rows_is_a_list_in_the_same_order() -> None:
    page = fitted_table(HEAD, [LONG, SHORT, LONG])
    assert [line.split(":")[0] for line in page.splitlines()] == ["- **kl_ratio**", "- **decode**", "- **kl_ratio**"]


def test_an_empty_cell_is_left_out_and_a_question_has_no_colon() -> None:
    rows = [("GPU", "none " * 20, ""), ("Is it safe?", "yes " * 20, "2%")]
    assert fitted_table(("test", "median", "spread"), rows).splitlines() == [
        f"- **GPU**: {'none ' * 20}",
        f"- **Is it safe?** {'yes ' * 20}; spread: 2%",
    ]


def test_markup_takes_no_width() -> None:
    assert fits(("a", "b"), [("x" * 30, as_text("_*" * 15))])


def test_a_bar_within_a_cell_ends_none() -> None:
    row = (as_text("a|b"), "x" * 99)
    assert with_fitted_tables(table(("name", "text"), [row])) == f"- **{row[0]}**: text: {row[1]}"


def test_a_table_in_a_code_block_is_text() -> None:
    block = f"````text\n{table(HEAD, [LONG])}\n```\n{table(HEAD, [LONG])}\n````"
    assert with_fitted_tables(block) == block
