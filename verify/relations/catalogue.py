"""The relations that a run checks; why these and no others is in docs/numerics.md, "Relations between calls"."""

from fa2verify.verify.relations.batch_invariance import batch_invariance
from fa2verify.verify.relations.foreign_values import foreign_values
from fa2verify.verify.relations.kept_results import kept_results
from fa2verify.verify.relations.relation import Relation
from fa2verify.verify.relations.repetition import repetition
from fa2verify.verify.relations.visible_nan import visible_nan

# The last looks back at what the others' calls did.
RELATIONS: tuple[Relation, ...] = (repetition, foreign_values, visible_nan, batch_invariance, kept_results)
