"""The comparison of two runs as one HTML file, under the report's own style sheet and policy."""

from jinja2 import Environment
from markupsafe import Markup

from fa2verify.reports.comparison import GROWTH, Comparison
from fa2verify.reports.failures import rerun
from fa2verify.reports.html import asset, environment
from fa2verify.reports.significance import LEVEL
from fa2verify.reports.timings import NOISE, Pace

_MOST = 200  # rows of one table


def render(found: Comparison | None, times: tuple[Pace, ...], names: tuple[str, str], against: str) -> str:
    """The whole page; `found` is None if only times were compared, `names` is what the two runs are called."""
    templates: Environment = environment()
    return templates.get_template("comparison.html").render(
        found=found,
        times=times,
        names=names,
        against=against,
        worse=(found is not None and found.worse) or any(pace.slower for pace in times),
        level=LEVEL,
        growth=GROWTH,
        noise=NOISE,
        most=_MOST,
        rerun=rerun,
        style=Markup(asset("report.css")),
    )
