"""Red zones: memory around a call's tensors that no kernel may write to, and fresh memory that holds NaN.

A kernel that writes one element before its output, or past the end of its workspace, is right by every comparison of
outputs; a memory checker is blind to it inside a caching allocator (flashinfer 3978), and what it hits is somebody
else's (flash-attention 2755). So during a call every input, and whatever is allocated through torch, lies between two
zones of a known pattern, which are looked at afterwards. Memory that nobody has written yet is filled with bytes of all
ones, NaN in every floating-point type: what a kernel does not write, shows.

All of torch's factories end in two operators, `empty` and `empty_strided`, whether Python or C++ calls them, and it is
the CPU's or CUDA's implementation of those that is replaced for the length of a call. What lies above it (autograd,
functorch, modes, fake tensors, a compiler's tracing) does not notice. Not seen is what never asks these operators: the
outputs of most of torch's own operators, allocations of compiled code, `cudaMalloc`.
"""

import functools
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

# Bytes on either side: a multiple of 512, CUDA's alignment, so that tensors are aligned as torch aligns them; and as
# much as a tile of 64 rows of head_dim 128 in 16 bits, which is what a kernel without a tail writes too much.
ZONE = 2**14
# Zones live until they are looked at. A call that holds more than this gets its further tensors without.
MAX_TENSORS = 256
MAX_BYTES = 2**30

# What memory holds that nobody has written. A 0, as memory fresh from the system has it, would hide that.
_FRESH = 255
# A NaN that is added to stays the same NaN, so an atomic would leave no trace: the eight bytes next to a tensor are
# tiny numbers in every floating-point type, the next eight are NaN, and so on.
_TINY, _NAN = (1, 0) * 4, (255,) * 8

_OPERATORS = (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_strided.default)
_KEYS = {"cpu": "CPU", "cuda": "CUDA"}


@dataclass(frozen=True, slots=True)
class Damage:
    """A zone that is not as it was.

    tensor  the tensor that it lies around: its name, or "a workspace"
    form    its dtype and shape
    before  how many elements in front of the tensor have changed
    after   how many elements behind it
    places  the nearest of both, as indices: -1 is the element in front of the first, `count` the one behind the last
    count   elements of the tensor's memory
    """

    tensor: str
    form: str
    before: int
    after: int
    places: tuple[int, ...]
    count: int

    def __str__(self) -> str:
        where = " and ".join(
            f"{number} element{'s' if number > 1 else ''} {side}"
            for number, side in ((self.before, "before"), (self.after, "after"))
            if number
        )
        nearest = " and ".join(str(place) for place in self.places)
        return f"{where} {self.tensor}, {self.form}, whose memory has {self.count}: the nearest at index {nearest}"


@dataclass(frozen=True, slots=True)
class _Zoned:
    """`memory` is zone, tensor, zone."""

    memory: Tensor
    used: int
    element: int
    form: str

    @property
    def begin(self) -> int:
        return self.memory.data_ptr() + ZONE


class _Inside(threading.local):
    """Whether this thread is making zones, for which it needs memory too."""

    busy = False


class RedZones:
    """The memory of one call on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._zoned: list[_Zoned] = []
        self._bytes = 0
        self._inside = _Inside()

    def place(self, tensor: Tensor) -> Tensor:
        """The same tensor, contents and strides, in memory between two zones; it must have its memory for itself."""
        return self._moved(tensor, fresh=False)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """While this lasts, memory from torch lies between zones and is NaN at first, in all threads.

        On the device's type of devices; does nothing where that is neither cpu nor cuda.
        """
        key = _KEYS.get(self._device.type)
        if key is None:
            yield
            return
        with torch.library._scoped_library("aten", "IMPL") as library:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch says, once, that an operator is overridden
                for operator in _OPERATORS:
                    library.impl(operator, self._standing_in(operator, key), key)
            yield

    def damage(self, named: Mapping[str, Tensor]) -> Damage | None:
        """The first tensor around which something was written.

        named  the names of those that have one; several may share a memory
        """
        for zoned in self._zoned:
            front, back = zoned.memory[:ZONE], zoned.memory[ZONE + zoned.used :]
            patterns = _patterns(zoned.memory.device)
            if torch.equal(front, patterns[0]) and torch.equal(back, patterns[1]):
                continue
            before = _elements(front.flip(0) != patterns[0].flip(0), zoned.element)
            after = _elements(back != patterns[1], zoned.element)
            count = zoned.used // zoned.element
            names = [name for name, each in named.items() if 0 <= _address(each) - zoned.begin < zoned.used]
            return Damage(
                tensor=", ".join(names) or "a workspace",
                form=zoned.form,
                before=len(before),
                after=len(after),
                places=(*(-1 - place for place in before[:1]), *(count + place for place in after[:1])),
                count=count,
            )
        return None

    def _standing_in(self, operator: torch._ops.OpOverload, key: str) -> Callable[..., Tensor]:
        original = _original(operator, key)

        def allocate(*args: Any, **kwargs: Any) -> Tensor:
            made = original(*args, **kwargs)
            if self._inside.busy or not self._is_ours(made) or kwargs.get("pin_memory"):
                return made
            self._inside.busy = True
            try:
                return self._moved(made, fresh=True)
            finally:
                self._inside.busy = False

        return allocate

    def _is_ours(self, made: Tensor) -> bool:
        """Whether it is memory on the bench's device; in a graph's capture filling it would be part of the graph."""
        index = self._device.index
        return (index is None or made.device.index == index) and not (
            made.is_cuda and torch.cuda.is_current_stream_capturing()
        )

    def _moved(self, tensor: Tensor, *, fresh: bool) -> Tensor:
        size = tensor.untyped_storage().nbytes()
        if not size or len(self._zoned) >= MAX_TENSORS or self._bytes + size + 2 * ZONE > MAX_BYTES:
            if fresh:
                _bytes_of(tensor).fill_(_FRESH)
            return tensor
        memory = torch.empty(size + 2 * ZONE, dtype=torch.uint8, device=tensor.device)
        patterns = _patterns(tensor.device)
        memory[:ZONE].copy_(patterns[0])
        memory[ZONE + size :].copy_(patterns[1])
        inner = memory[ZONE : ZONE + size]
        if fresh:
            inner.fill_(_FRESH)
        else:
            inner.copy_(_bytes_of(tensor))
        # Through DLPack the inner part becomes a memory of its own: the tensor is no view, and begins where its
        # storage does, as a tensor does that torch has allocated.
        storage = from_dlpack(inner).untyped_storage()
        moved = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        moved.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
        form = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        self._zoned.append(_Zoned(memory, size, tensor.element_size(), form))
        self._bytes += memory.numel()
        return moved


@functools.cache
def _original(operator: torch._ops.OpOverload, key: str) -> Callable[..., Tensor]:
    """The operator's own implementation. Asked for before it is replaced, and kept: it stays the original's."""
    kernel = torch.library.get_kernel(operator, key)
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def call(*args: Any, **kwargs: Any) -> Tensor:
        made: Tensor = kernel.call_boxed(keys, *args, **kwargs)
        return made

    return call


def _address(tensor: Tensor) -> int:
    """Where it begins; 0 for what has no memory, such as a sparse tensor or a compiler's stand-in."""
    ordinary = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    return tensor.data_ptr() if ordinary else 0


def _bytes_of(tensor: Tensor) -> Tensor:
    """A tensor's whole memory."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


@functools.cache
def _patterns(device: torch.device) -> tuple[Tensor, Tensor]:
    """What the zones in front and behind hold."""
    return (
        torch.tensor((_NAN + _TINY) * (ZONE // 16), dtype=torch.uint8, device=device),
        torch.tensor((_TINY + _NAN) * (ZONE // 16), dtype=torch.uint8, device=device),
    )


def _elements(changed: Tensor, element: int) -> list[int]:
    """Which elements have a byte that changed, counted from the tensor outwards."""
    return sorted({int(place) // element for place in changed.nonzero()})
