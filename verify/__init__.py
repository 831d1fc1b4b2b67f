"""How: run, measure, bound, judge; and the pytest suite itself."""
