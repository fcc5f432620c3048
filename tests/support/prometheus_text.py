"""Parse Prometheus's text format strictly.

Prometheus's Python parser reads the page; this module adds the checks that the parser does not make
(https://prometheus.io/docs/instrumenting/exposition_formats/): each metric has one HELP, one TYPE and all its samples
in one block, samples are unique, and only counters have names that end in `_total`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


def read_metrics(page: str) -> Mapping[str, Metric]:
    """The metrics of a page by name, counters without their `_total`. Asserts that the page follows the rules."""
    assert page.endswith("\n"), "the last line does not end with a newline"
    comments = [tuple(line.split()[1:3]) for line in page.splitlines() if line.startswith(("# HELP ", "# TYPE "))]
    assert [comment for comment, number in Counter(comments).items() if number > 1] == []
    families = list(text_string_to_metric_families(page))
    names = [family.name for family in families]
    assert [name for name, number in Counter(names).items() if number > 1] == []
    samples = [(sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples]
    assert [sample for sample, number in Counter(samples).items() if number > 1] == []
    totals = {
        family.name: family.type for family in families if any(_is_total(sample.name) for sample in family.samples)
    }
    assert {name: kind for name, kind in totals.items() if kind != "counter"} == {}
    return {family.name: family for family in families}


def _is_total(name: str) -> bool:
    return name.endswith("_total")
