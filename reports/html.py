"""The report: one HTML file that fetches nothing. All is aggregated but the problems, which its script lists on demand.

It shows text that strangers wrote: kernel names, messages, problems. Everything is escaped by Jinja, the script sets
text and never markup, and the page's own Content-Security-Policy lets it fetch nothing and run no script but the one
that it ships, by its hash.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache, partial
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fa2verify.reports import benchmark_section
from fa2verify.reports.benchmark_store import Machine
from fa2verify.reports.chart import colours
from fa2verify.reports.environment import repeats, rows
from fa2verify.reports.failures import failures, rerun, specs
from fa2verify.reports.known import known_failures
from fa2verify.reports.places import COLUMNS, ROWS, TILE
from fa2verify.reports.problems import MOST, data, listed
from fa2verify.reports.ratios import DIRECTIONS, RULE, quantile, share_of_bound
from fa2verify.reports.slices import choices, place, slices
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import VERDICT_WORDS, plural, sentence, short, summarize
from fa2verify.reports.ulps import EDGES
from fa2verify.reports.view import views

# What one page shows of each; a page that says "and 900 more" is read, one of 900 messages is not.
_FAILURES = 60
_OPEN = 3  # failures, and tables of benchmarks, that need not be opened
_LOSSES = 40
_REASONS = 6
_PROBLEMS = 20  # without a script; with it, those that a reader asks for
_MESSAGE = 4000  # characters
_NAME = 200


def render(loaded: Loaded, machines: Sequence[Machine] = ()) -> str:
    """The whole page: of verdicts, of benchmarks, or of both; what there is nothing of has no section.

    But for the list of problems, its size depends on kernels, features, failures and benchmarked cells alone.
    """
    benchmarks = benchmark_section.sections(machines)
    drawn = benchmark_section.names(benchmarks)
    summaries = summarize(loaded)
    shown, scales = views(slices(loaded))
    whole = shown[0]
    found, problems = failures(loaded), listed(loaded)
    kernels = [summary.name for summary in summaries]
    dtypes, directions = choices(loaded)
    named = specs(loaded.kernels)
    script = asset("report.js")
    return (
        environment()
        .get_template("report.html")
        .render(
            loaded=loaded,
            sentence=benchmark_section.sentence(machines) if benchmarks and not summaries else sentence(summaries),
            benchmarks=benchmarks,
            measured_runs=[run for machine in machines for run in machine.runs],
            colours=colours(drawn),
            most_open=_OPEN,
            most_remarks=_LOSSES,
            summaries=summaries,
            views=shown,
            whole=whole,
            scales=scales,
            kernel_number={name: number for number, name in enumerate(dict.fromkeys((*kernels, *drawn)))},
            filtered=tuple(dict.fromkeys((*(summary.name for summary in whole.summaries), *drawn))),
            feature_number={name: number for number, name in enumerate(whole.matrix)},
            filters={"d": dtypes, "r": directions},
            place=partial(place, dtypes=dtypes, directions=directions),
            directions=DIRECTIONS,
            rule=RULE,
            verdict_words=VERDICT_WORDS,
            failures=found[:_FAILURES],
            more_failures=max(len(found) - _FAILURES, 0),
            known=known_failures(loaded),
            open_failures=_OPEN,
            losses=loaded.losses[:_LOSSES],
            more_losses=max(len(loaded.losses) - _LOSSES, 0),
            ulp_edges=EDGES,
            map_rows=ROWS,
            map_columns=COLUMNS,
            tile=TILE,
            problems=problems[:_PROBLEMS],
            problem_count=len(problems),
            problem_limit=MOST,
            data=data(loaded, problems, kernels, list(whole.matrix), whole.decoys),
            rerun=lambda record: rerun(named.get(record.kernel, record.kernel), record.problem, record.rule),
            environment_rows=rows(loaded, machines),
            repeats=repeats(loaded.runs),
            most_reasons=_REASONS,
            message_length=_MESSAGE,
            style=Markup(asset("palette.css") + asset("report.css") + asset("charts.css")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


@cache
def environment() -> Environment:
    """Where pages' templates lie, with the filters that they use; what they are given is escaped."""
    environment = Environment(
        loader=PackageLoader("fa2verify.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        short=short, plural=plural, quantile=quantile, share=share_of_bound, cut=_cut, name=_name
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    return environment


@cache
def asset(name: str) -> str:
    """The text of a file beside the templates."""
    return (files("fa2verify.reports") / "templates" / name).read_text(encoding="utf-8")


def _name(text: str) -> Markup:
    """A kernel's name, which may be broken after punctuation and so need not be within a word."""
    return Markup("<wbr>").join(re.split(r"(?<=[:._/])(?=\w)", _cut(text, _NAME)))


def _cut(text: str, length: int) -> str:
    """`text`, its middle left out where it is longer than `length`: a traceback tells most at both its ends."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n[{len(text) - 2 * half:,} characters left out]\n{text[-half:]}"
