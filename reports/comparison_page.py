"""The comparison of two runs as one HTML file, under the report's own style sheet and policy."""

from jinja2 import Environment
from markupsafe import Markup

from fa2verify.reports.benchmark_comparison import DRIFT, BenchmarkComparison
from fa2verify.reports.comparison import GROWTH, Comparison
from fa2verify.reports.failures import rerun
from fa2verify.reports.html import asset, environment
from fa2verify.reports.significance import LEVEL
from fa2verify.reports.timings import NOISE

_MOST = 200  # rows of one table


def render(found: Comparison | None, measured: BenchmarkComparison | None, names: tuple[str, str]) -> str:
    """The whole page; None for what was not compared, `names` is what the two runs are called."""
    templates: Environment = environment()
    return templates.get_template("comparison.html").render(
        found=found,
        measured=measured,
        names=names,
        worse=any(one is not None and one.worse for one in (found, measured)),
        level=LEVEL,
        growth=GROWTH,
        noise=NOISE,
        drift=DRIFT,
        most=_MOST,
        rerun=rerun,
        style=Markup(asset("palette.css") + asset("report.css")),
    )
