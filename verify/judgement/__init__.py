"""Whether one answer is right: the truth, its bounds, the rules R0 to R2, and the decoys of R3."""
