"""What one call promises about another, R4: a relation a file, and the catalogue of those that a run checks."""
