"""Problems for relations between calls: as any other, but three in four of those that may be are deterministic.

Among ordinary problems few are, and a promise of the same bits is all that a repeated call can be held to.
"""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fa2verify.kernels.problem import Problem
from fa2verify.strategies.problems import problems
from fa2verify.strategies.size import Size
from fa2verify.strategies.support import Unsupported


def related_problems(unsupported: Unsupported, *, size: Size) -> SearchStrategy[Problem]:
    """Problems within `size` that are supported, of any direction and packing; see `problems`.

    Shrinks as they do, and towards a problem that is not deterministic. Raises NothingSupported as they do.
    """

    def asked(problem: Problem, wanted: bool) -> Problem:
        ordered = replace(problem, deterministic=True)
        return ordered if wanted and problem.backward and not unsupported(ordered) else problem

    return st.builds(asked, problems(unsupported, size=size), st.sampled_from((False, True, True, True)))
