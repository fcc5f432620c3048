"""A strict reader of Prometheus's text format, as strict as its strictest consumers.

Prometheus's own Python parser reads the page, and this adds what that one lets pass
(https://prometheus.io/docs/instrumenting/exposition_formats/): each metric has one HELP, one TYPE and all its samples
in one block, no sample is there twice, and a name that ends in `_total` is a counter's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


def read_metrics(page: str) -> Mapping[str, Metric]:
    """The metrics of a page by name, without a counter's `_total`. Fails where the page breaks a rule."""
    assert page.endswith("\n"), "the last line has no end"
    comments = [tuple(line.split()[1:3]) for line in page.splitlines() if line.startswith(("# HELP ", "# TYPE "))]
    assert [comment for comment, number in Counter(comments).items() if number > 1] == []
    families = list(text_string_to_metric_families(page))
    names = [family.name for family in families]
    assert [name for name, number in Counter(names).items() if number > 1] == []
    samples = [(one.name, *sorted(one.labels.items())) for family in families for one in family.samples]
    assert [sample for sample, number in Counter(samples).items() if number > 1] == []
    totals = {family.name: family.type for family in families if any(_is_total(one.name) for one in family.samples)}
    assert {name: kind for name, kind in totals.items() if kind != "counter"} == {}
    return {family.name: family for family in families}


def _is_total(name: str) -> bool:
    return name.endswith("_total")
