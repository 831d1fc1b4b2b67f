"""Where a run takes place, for its record."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import torch

_PACKAGES = ("fa2verify", "hypothesis", "numpy", "pytest", "triton", "flash-attn", "cuda-core")


def describe(device: str) -> dict[str, str]:
    """Name to version or value: versions, processor, GPU and driver. Nothing that names the machine or its folders."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["system"] = f"{platform.system()} {platform.machine()}"
    found["processor"] = _processor()
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = properties.name
        found["gpus"] = str(torch.cuda.device_count())
        found["compute capability"] = f"{properties.major}.{properties.minor}"
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        found["driver"] = _driver()
    # They decide which tiles of our Triton kernels were verified: docs/decisions/0007-an-unknown-gpu-races-once.md.
    if tiles := os.environ.get("FA2VERIFY_TILES"):
        found["FA2VERIFY_TILES"] = tiles
    return found


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _driver() -> str:
    version = Path("/proc/driver/nvidia/version")
    if not version.exists():
        return "unknown"
    words = version.read_text().splitlines()[0].split()
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")
