"""A GPU that others fill, for the suite's own tests: before each drawn problem a run finds no room."""

import torch

from fa2verify.verify.run import campaign
from fa2verify.verify.run.room import Crowded


def _full(device: torch.device) -> None:
    raise Crowded("others hold all of it")


campaign.wait_for_room = _full
