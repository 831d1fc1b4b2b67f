"""Everything that is shown of benchmarks: parts for whatever there are measurements of, and no others."""

from collections.abc import Sequence

from fa2verify.reports.benchmark_record import Measurement
from fa2verify.reports.figures import Part
from fa2verify.reports.host_costs import first_calls, host_costs
from fa2verify.reports.peaks import peaks
from fa2verify.reports.speeds import speeds
from fa2verify.reports.trainings import loss_curves, trainings


def parts(measured: Sequence[Measurement], against: str, only: Sequence[str] = ()) -> tuple[Part, ...]:
    """The parts in the order of a report; a part without a row is left out.

    against  the kernel that speeds are over
    only     kernels to show, in this order; all without any
    """
    made = (
        *speeds(measured, against, only),
        *peaks(measured, only),
        *host_costs(measured, only),
        *first_calls(measured, only),
        *trainings(measured, against, only),
        *loss_curves(measured, only),
    )
    return tuple(part for part in made if any(panel.measured for panel in part.panels))
