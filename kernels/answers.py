"""What a kernel says of itself when it is asked, by code that may be anybody's.

`unavailable` and `unsupported` of a foreign kernel may raise, or give something other than sentences. Listing kernels
and planning a run must survive that; a verdict must name it.
"""

import torch

from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Problem


class AnswerError(Exception):
    """A kernel that was asked and did not answer as it must; the message names the method and what it did."""


def unsupported(kernel: Kernel, problem: Problem) -> tuple[str, ...]:
    """Why `kernel` does not take `problem`, in sentences. Raises AnswerError if it cannot say."""
    try:
        reasons = kernel.unsupported(problem)
    except Exception as error:
        raise AnswerError(f"unsupported() raised {type(error).__name__}: {error}") from error
    return _sentences("unsupported", reasons)


def unavailable(kernel: Kernel, device: torch.device) -> tuple[str, ...]:
    """Why `kernel` cannot run on `device`, in sentences; that it cannot say is one."""
    try:
        return _sentences("unavailable", kernel.unavailable(device))
    except Exception as error:  # noqa: BLE001 - foreign code: whatever it raises is why the kernel is left out
        told = str(error) if isinstance(error, AnswerError) else f"unavailable() raised {type(error).__name__}: {error}"
        return (f"Its {told}.",)


def _sentences(method: str, reasons: object) -> tuple[str, ...]:
    if not isinstance(reasons, tuple | list) or not all(isinstance(reason, str) for reason in reasons):
        raise AnswerError(f"{method}() gave {reasons!r}; it must give a tuple of sentences, empty for none")
    return tuple(reasons)
