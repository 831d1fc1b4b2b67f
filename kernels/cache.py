"""Where what was found out about a machine, or built for it, is kept between runs."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder for one kind of what is kept, made if it is not there.

    `FA2VERIFY_CACHE`, else `$XDG_CACHE_HOME/fa2verify`, else `~/.cache/fa2verify`.
    """
    if named := os.environ.get("FA2VERIFY_CACHE"):
        base = Path(named)
    elif home := os.environ.get("XDG_CACHE_HOME"):
        base = Path(home) / "fa2verify"
    else:
        base = Path.home() / ".cache" / "fa2verify"
    folder = base / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder
