"""Bugs that shipped, each planted in one correct kernel: what the suite must reject.

A file is a chapter, a class is a bug: its docstring is the fault, `source` the project and its issue, `shows` a problem
that shows it. `mutants.flash` is the kernel without any. docs/kill-matrix.md says which rule sees which.
"""

from mutants.dropouts import DROPOUTS
from mutants.empties import EMPTIES
from mutants.flash import Flash, Mutation
from mutants.heads import HEADS
from mutants.masks import MASKS
from mutants.memory import MEMORY
from mutants.splits import SPLITS, SplitFlash
from mutants.strides import STRIDES

__all__ = ["CORRECT", "MUTANTS", "Flash", "Mutation", "SplitFlash"]

CORRECT: tuple[type[Flash], ...] = (Flash, SplitFlash)
MUTANTS: dict[str, type[Mutation]] = {
    mutant.name: mutant for mutant in (*MASKS, *EMPTIES, *SPLITS, *STRIDES, *HEADS, *MEMORY, *DROPOUTS)
}
