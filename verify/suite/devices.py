"""Which device a worker verifies on, and how many workers there should be."""

import os
from collections.abc import Sequence

# Workers a GPU: drawing, references on small tensors and launches keep a core busy; the GPU is shared.
_WORKERS_PER_GPU = 12


def visible_devices() -> tuple[str, ...]:
    """The caller's CUDA devices, as CUDA_VISIBLE_DEVICES names them. Does not start CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(part.strip() for part in named.split(",") if part.strip())
    import torch

    return tuple(str(index) for index in range(torch.cuda.device_count()))


def worker_count(devices: Sequence[str], cores: int) -> int:
    """Workers for `-n auto`: one a core, but no more than the GPUs serve."""
    return max(1, min(cores, len(devices) * _WORKERS_PER_GPU))


def pin(worker: int, devices: Sequence[str]) -> None:
    """Leave one of `devices` visible to this process. Call before CUDA starts, which reads the variable once."""
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[worker % len(devices)]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
