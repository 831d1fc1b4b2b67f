"""What a run's record says of where it took place."""

import pytest

from fa2verify.verify.run.environment import describe


def test_what_chose_the_tiles_is_told_where_somebody_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FA2VERIFY_TILES", raising=False)
    assert "FA2VERIFY_TILES" not in describe("cpu")
    monkeypatch.setenv("FA2VERIFY_TILES", "race")
    assert describe("cpu")["FA2VERIFY_TILES"] == "race"
