"""What the CUDA-only peers ask of the device.

A peer's `unsupported` sees a problem and no device; the peers here run on the current CUDA device or not at all, so its
compute capability is what their limits depend on.
"""

import torch

Capability = tuple[int, int]


def capability() -> Capability | None:
    """Compute capability of the current CUDA device, (major, minor); None without one."""
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def lacks_cuda(device: torch.device, minimum: Capability) -> tuple[str, ...]:
    """Why a kernel for NVIDIA GPUs from compute capability `minimum` on cannot run on `device`; empty if it can."""
    if device.type != "cuda":
        return (f"It runs on CUDA devices alone, not on {device.type!r}.",)
    if not torch.cuda.is_available():
        return ("torch sees no CUDA device.",)
    if torch.version.hip is not None:
        return ("Under ROCm other code stands behind this name, of another lineage, which is not adapted here.",)
    found = torch.cuda.get_device_capability(device)
    if found < minimum:
        return (f"It needs compute capability {_dotted(minimum)} or later; this device has {_dotted(found)}.",)
    return ()


def _dotted(pair: Capability) -> str:
    return f"{pair[0]}.{pair[1]}"
