"""How: run, measure, bound, judge; and the pytest suite itself.

Here lie the suite's tests and what pytest loads by name (`entry`, `plugin`). The rest is in layers, each of which
imports only those before it: `judgement`, `relations`, `known_failures`, `trial`, `run`, `suite`.
"""
