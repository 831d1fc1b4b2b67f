"""The report: one HTML file that fetches nothing, with everything in it aggregated, never a raw record.

It shows text that strangers wrote: kernel names, messages, problems. Everything is escaped by Jinja, and the page's own
Content-Security-Policy lets it fetch nothing and run no script but the one that it ships, by its hash.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fa2verify.reports.chart import Strip, ratio_charts
from fa2verify.reports.environment import repeats, rows
from fa2verify.reports.failures import failures
from fa2verify.reports.known import known_failures
from fa2verify.reports.matrix import matrix
from fa2verify.reports.ratios import DIRECTIONS, RULE, quantile, share_of_bound
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import VERDICT_WORDS, plural, sentence, short, summarize
from fa2verify.reports.ulps import EDGES, ulps

# What one page shows of each; a page that says "and 900 more" is read, one of 900 messages is not.
_FAILURES = 60
_LOSSES = 40
_REASONS = 6
_MESSAGE = 4000  # characters


def render(loaded: Loaded) -> str:
    """The whole page. Its size depends on the number of kernels, features and failures, not of records."""
    summaries = summarize(loaded)
    measured = [summary for summary in summaries if any(summary.ratios[one].tensors for one in DIRECTIONS)]
    shown = [one for one in DIRECTIONS if any(summary.ratios[one].tensors for summary in measured)]
    charts = ratio_charts({one: [Strip(summary.name, summary.ratios[one]) for summary in measured] for one in shown})
    columns = [summary for summary in summaries if summary.status != "unavailable"]
    found = failures(loaded)
    script = _asset("report.js")
    return (
        _environment()
        .get_template("report.html")
        .render(
            loaded=loaded,
            sentence=sentence(summaries),
            summaries=summaries,
            measured=measured,
            directions=DIRECTIONS,
            rule=RULE,
            charts={direction: Markup(chart) for direction, chart in charts.items()},
            columns=columns,
            matrix=matrix(loaded, columns),
            verdict_words=VERDICT_WORDS,
            failures=found[:_FAILURES],
            more_failures=max(len(found) - _FAILURES, 0),
            known=known_failures(loaded),
            losses=loaded.losses[:_LOSSES],
            more_losses=max(len(loaded.losses) - _LOSSES, 0),
            ulps=ulps(loaded),
            ulp_edges=EDGES,
            environment_rows=rows(loaded),
            repeats=repeats(loaded.runs),
            most_reasons=_REASONS,
            message_length=_MESSAGE,
            style=Markup(_asset("report.css")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fa2verify.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(short=short, plural=plural, quantile=quantile, share=share_of_bound, cut=_cut)
    return environment


@cache
def _asset(name: str) -> str:
    return (files("fa2verify.reports") / "templates" / name).read_text(encoding="utf-8")


def _cut(text: str, length: int) -> str:
    """`text`, its middle left out where it is longer than `length`: a traceback tells most at both its ends."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n[{len(text) - 2 * half:,} characters left out]\n{text[-half:]}"
