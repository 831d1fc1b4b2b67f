"""On what: Hypothesis strategies, one axis a file."""
