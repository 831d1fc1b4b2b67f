"""A ledger in a run of the whole suite: known failures do not fail it, an entry that is not true does."""

import json
import sys
from typing import Any

# One process for both runs: each needs torch, which takes seconds to load.
SCRIPT = """
import json, sys
import pytest

for arguments in json.loads(sys.argv[1]):
    status = pytest.main(["-p", "no:cacheprovider", "--pyargs", *arguments])
    print(f"status {int(status)}", flush=True)
"""

ENTRY = """
[[known]]
name = "many-keys"
says = "It dies of more than sixteen keys."
link = "https://example.org/issues/1"
kernels = ["foreign:segfaults"]
verdict = "crashed"
rules = ["process died"]
smallest = '{"lengths":{"seqlen_k":17},"head_dim":8}'
where = {seqlen_k = "> 16"}
"""


def test_known_failures_and_one_that_is_mended(suite: Any) -> None:
    true, mended = suite.directory / "known.toml", suite.directory / "mended.toml"
    true.write_text(ENTRY)
    mended.write_text(ENTRY.replace("17", "3").replace("> 16", "> 2"))
    shared = ["--hypothesis-profile=quick", "--hypothesis-seed=1", "--kernel=foreign:segfaults"]
    runs = [
        ["fa2verify.verify.test_forward", "fa2verify.verify.test_known_failures", *shared],
        ["fa2verify.verify.test_known_failures", "--report-dir=other", *shared],
    ]
    runs[0] += [f"--ledger={true}", f"--report-dir={suite.report}"]
    runs[1] += [f"--ledger={mended}"]
    done = suite.start([sys.executable, "-c", SCRIPT, json.dumps(runs)])
    first, rest = done.stdout.split("status 0\n")
    loaded = suite.loaded()
    assert {record.verdict for record in loaded.records} == {"passed", "known"}
    assert {record.phase for record in loaded.records} == {"drawn"}, "nothing was shrunk"
    known = sum(record.verdict == "known" for record in loaded.records)
    assert known > 1
    assert f"(and {known} known failures). Report: " in first
    assert (
        f"foreign:segfaults: known failure many-keys (https://example.org/issues/1): {known} problems failed as known"
        in first
    )
    (kernel,) = loaded.kernels
    assert [entry.name for entry in kernel.known] == ["many-keys"]
    assert "It dies of more than sixteen keys." in (suite.report / "index.html").read_text()

    assert rest.endswith("status 1\n")
    assert "foreign:segfaults: failed, stale entry" in rest
    assert "says that this problem fails, with everywhere; it passes. Remove the entry" in rest
