"""The one way in which a page is made of its template."""

from __future__ import annotations

import math
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from leakscope.report import prose, redact, tables
from leakscope.report.redact import Veil
from leakscope.report.withheld import FEWEST
from leakscope.version import VERSION


def rendered(template: str, veil: Veil, view: Mapping[str, object]) -> str:
    """The page as HTML: `template` with what `view` names, and what every page has."""
    environment = Environment(
        loader=PackageLoader("leakscope.report"),
        autoescape=True,  # sentences and names come from cells and plans of other people
        undefined=StrictUndefined,  # a name that is misspelled in a template ends it, instead of an empty place
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": tables.number,
        "at_most": tables.at_most,
        "at_least": tables.at_least,
        "duration": tables.duration,
        "metric": tables.metric_name,
        "unit": tables.unit_name,
        "code": tables.breakable,
    }
    rules = {"grid": redact.GRID, "span": redact.SPAN, "levels": redact.LEVELS, "fewest": FEWEST}
    common = {"veil": veil, "rules": rules, "prose": prose, "version": VERSION, "infinite": math.isinf}
    return environment.get_template(template).render(**common, **view)
