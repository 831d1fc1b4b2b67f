"""What is written around a tensor is seen, what is read before it is written is NaN, and nobody else notices."""

import ctypes
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Layout, Problem, Varlen
from fa2verify.kernels.tensors import Tensors, make_tensors
from fa2verify.reports.record import Record
from fa2verify.verify.trial import redzone
from fa2verify.verify.trial.attempt import Bench, attempt
from fa2verify.verify.trial.redzone import RedZones

CPU = torch.device("cpu")
CALL = Problem(lengths=Dense(seqlen_q=5, seqlen_k=5), heads_q=2, heads_kv=2, head_dim=24, alibi="per_head")
Make = Callable[..., Kernel]
Right = Callable[[Problem, Tensors], Outputs]


@pytest.fixture
def zones() -> Iterator[RedZones]:
    """Zones, watching."""
    zones = RedZones(CPU)
    with zones.watch():
        yield zones


def poke(tensor: Tensor, index: int, count: int = 1) -> None:
    """Zeros from an element on, wherever that is."""
    ctypes.memset(tensor.data_ptr() + index * tensor.element_size(), 0, count * tensor.element_size())


def end(tensor: Tensor) -> int:
    """The index behind the last element."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def verdict(made: Make, right: Right, spoil: Callable[[Tensors, Outputs], object], problem: Problem = CALL) -> Record:
    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        spoil(tensors, outputs)
        return outputs

    return attempt(made(call), problem, Bench(CPU))


@pytest.mark.parametrize("name", ["q", "k", "v", "dout", "alibi_slopes"])
@pytest.mark.parametrize("after", [False, True])
def test_a_write_around_an_input(made: Make, right: Right, name: str, after: bool) -> None:
    def spoil(tensors: Tensors, outputs: Outputs) -> None:
        tensor = getattr(tensors, name)
        poke(tensor, end(tensor) if after else -1)

    record = verdict(made, right, spoil)
    assert (record.verdict, record.rule) == ("failed", f"R0 memory around {name}")
    where, count = ("after", 2 if name == "alibi_slopes" else 240) if after else ("before", -1)
    assert f"the call wrote 1 element {where} {name}, float" in record.message
    assert record.message.endswith(f"the nearest at index {count}")


@pytest.mark.parametrize("name", ["cu_seqlens_q", "cu_seqlens_k"])
def test_a_write_behind_the_offsets(made: Make, right: Right, name: str) -> None:
    packed = Problem.from_json('{"lengths": {"seqlens_q": [2, 3], "seqlens_k": [4, 3]}}')
    record = verdict(made, right, lambda t, o: poke(getattr(t, name), 5), packed)
    assert record.rule == f"R0 memory around {name}"
    assert record.message.endswith("the nearest at index 5")


@pytest.mark.parametrize(
    ("layout", "named", "behind"),
    [("qkv_packed", "q, k, v", 720), ("kv_packed", "k, v", 480), ("sliced", "k", 400), ("offset", "k", 256)],
)
def test_neighbours_are_one_memory(made: Make, right: Right, layout: Any, named: str, behind: int) -> None:
    def spoil(tensors: Tensors, outputs: Outputs) -> None:
        whole = torch.empty(0, dtype=torch.float16).set_(tensors.k.untyped_storage())
        poke(whole, len(whole), 3)

    record = verdict(made, right, spoil, replace(CALL, layout=layout))
    assert record.rule == f"R0 memory around {named}"
    assert f"3 elements after {named}" in record.message
    assert record.message.endswith(f"the nearest at index {behind}")


@pytest.mark.parametrize("name", ["out", "lse", "dq", "dk", "dv"])
def test_a_write_around_an_output(made: Make, right: Right, name: str) -> None:
    def spoil(tensors: Tensors, outputs: Outputs) -> None:
        poke(getattr(outputs, name), -2, 2)

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        """Each output in memory that the kernel asks for."""
        exact = right(problem, tensors)
        outputs = Outputs(**{name: torch.empty_like(each).copy_(each) for name, each in exact.named().items()})
        spoil(tensors, outputs)
        return outputs

    record = attempt(made(call), replace(CALL, direction="forward_backward"), Bench(CPU))
    assert record.rule == f"R0 memory around {name}"
    assert "2 elements before" in record.message


def test_a_write_on_both_sides_of_a_workspace(made: Make, right: Right) -> None:
    def spoil(tensors: Tensors, outputs: Outputs) -> None:
        workspace = tensors.q.new_empty(7, 3, dtype=torch.float32)
        poke(workspace, -3)
        poke(workspace, 25, 2)

    record = verdict(made, right, spoil)
    assert record.rule == "R0 memory around a workspace"
    assert record.message == (
        "the call wrote 1 element before and 2 elements after a workspace, float32 (7, 3), whose memory has 21: "
        "the nearest at index -3 and 25"
    )


def test_the_second_call_is_watched_too(made: Make, right: Right) -> None:
    calls: list[int] = []

    def spoil(tensors: Tensors, outputs: Outputs) -> None:
        calls.append(1)
        if len(calls) == 2:
            poke(tensors.v, -1)

    assert verdict(made, right, spoil).rule == "R0 memory around v, second call"


@pytest.mark.parametrize("number", [ctypes.c_float, ctypes.c_int32, ctypes.c_double])
@pytest.mark.parametrize("place", [-1, 1])
def test_an_atomic_next_to_a_tensor_is_seen(zones: RedZones, number: Any, place: int) -> None:
    """Though it adds to whatever is there: added to a NaN, it would leave that NaN."""
    tensor = torch.empty(ctypes.sizeof(number), dtype=torch.uint8)
    begin = tensor.data_ptr() + place * ctypes.sizeof(number)
    number.from_address(begin).value += 1
    assert zones.damage({}) is not None


def test_what_is_read_around_a_tensor_is_nan(zones: RedZones) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        tensor = torch.zeros(64, dtype=dtype)
        around = ctypes.string_at(tensor.data_ptr() - 128, 128) + ctypes.string_at(tensor.data_ptr() + end(tensor), 128)
        found = torch.frombuffer(bytearray(around), dtype=dtype)
        assert found.isnan().sum() >= len(found) / 4


FRESH: dict[str, Callable[[Tensor], Tensor]] = {
    "empty": lambda x: torch.empty(3, 5, dtype=x.dtype),
    "empty_like": torch.empty_like,
    "empty_like, strides kept": lambda x: torch.empty_like(x.T),
    "empty_strided": lambda x: torch.empty_strided((2, 3), (1, 7), dtype=x.dtype),
    "empty_permuted": lambda x: torch.empty_permuted((2, 3), (1, 0), dtype=x.dtype),
    "new_empty": lambda x: x.new_empty(4),
    "new_empty_strided": lambda x: x.new_empty_strided((2, 2), (3, 1)),
    "channels last": lambda x: torch.empty(2, 3, 4, 5, dtype=x.dtype, memory_format=torch.channels_last),
    "subnormal of fp32": lambda x: torch.empty(2),
    "fp64": lambda x: torch.empty(2, dtype=torch.float64),
}


@pytest.mark.parametrize("how", FRESH)
def test_fresh_memory_is_nan(zones: RedZones, how: str) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        assert FRESH[how](torch.zeros(4, 6, dtype=dtype)).isnan().all()


def test_fresh_integers_are_no_zeros(zones: RedZones) -> None:
    assert torch.empty(3, dtype=torch.int32).tolist() == [-1, -1, -1]


FACTORIES: dict[str, Callable[[], Tensor]] = {
    **{how: lambda make=make: make(torch.ones(4, 6)) for how, make in FRESH.items()},
    "zeros": lambda: torch.zeros(3, 4),
    "zeros of a bool": lambda: torch.zeros(3, dtype=torch.bool),
    "ones_like": lambda: torch.ones_like(torch.zeros(3, 4).T),
    "full": lambda: torch.full((2, 1, 3), 7),
    "full_like": lambda: torch.full_like(torch.zeros(2), 0.5, dtype=torch.float16),
    "new_full": lambda: torch.zeros(1).new_full((2, 2), 3.0),
    "new_zeros": lambda: torch.zeros(1).new_zeros(2, 2, dtype=torch.bfloat16),
    "a gradient is wanted": lambda: torch.zeros(2, 2, requires_grad=True),
    "nothing": lambda: torch.empty(0, 3),
    "one of ones": lambda: torch.empty(1, 1, 1).fill_(2),
    "out": lambda: torch.zeros(2, out=torch.ones(2)),
    "pinned, if there is a way": lambda: torch.zeros(2, pin_memory=torch.cuda.is_available()),
    "meta": lambda: torch.empty(3, device="meta"),
    "sparse": lambda: torch.zeros(2, 2, layout=torch.sparse_coo),
}


@pytest.mark.parametrize("how", FACTORIES)
def test_a_tensor_is_as_torch_makes_it(how: str) -> None:
    """But for where it lies, and what it holds if that is nobody's business."""
    plain = FACTORIES[how]()
    with RedZones(CPU).watch():
        found = FACTORIES[how]()
    assert type(found) is type(plain)
    assert (found.shape, found.dtype, found.device, found.layout) == (
        plain.shape,
        plain.dtype,
        plain.device,
        plain.layout,
    )
    assert (found.requires_grad, found.is_leaf, found._is_view()) == (plain.requires_grad, plain.is_leaf, False)
    if found.layout is torch.strided:
        assert (found.stride(), found.storage_offset()) == (plain.stride(), plain.storage_offset())
        assert found.untyped_storage().nbytes() == plain.untyped_storage().nbytes()
        assert found.device.type == "meta" or found.data_ptr() % 64 == 0
    if how not in FRESH and how != "meta":
        assert torch.equal(found.to_dense(), plain.to_dense())


@pytest.mark.parametrize("layout", get_args(Layout))
def test_placed_inputs_are_the_inputs(layout: Layout) -> None:
    lengths = Varlen(seqlens_q=(3, 2), seqlens_k=(3, 2)) if layout == "tail" else CALL.lengths
    problem = replace(CALL, layout=layout, lengths=lengths)
    plain, zones = make_tensors(problem), RedZones(CPU)
    for name, found in make_tensors(problem, CPU, zones.place).named().items():
        expected = plain.named()[name]
        assert found.equal(expected) or layout == "tail"
        assert torch.equal(found.nan_to_num(), expected.nan_to_num())
        assert (found.stride(), found.storage_offset()) == (expected.stride(), expected.storage_offset())
        assert found.untyped_storage().nbytes() == expected.untyped_storage().nbytes()
        assert found.untyped_storage().data_ptr() % 64 == 0
    assert zones.damage({}) is None


def test_it_ends_whatever_happens() -> None:
    zones = RedZones(CPU)
    with pytest.raises(KeyError), zones.watch():
        raise KeyError
    held = len(zones._zoned)
    torch.empty(3)
    torch.empty_strided((2,), (1,))
    assert len(zones._zoned) == held


def test_it_can_be_nested(zones: RedZones) -> None:
    inner = RedZones(CPU)
    with inner.watch():
        poke(torch.empty(3), -1)
    poke(torch.empty(5), 5)
    assert str(inner.damage({})).startswith("1 element before a workspace, float32 (3,)")
    assert str(zones.damage({})).startswith("1 element after a workspace, float32 (5,)")


@pytest.mark.parametrize(("name", "limit"), [("MAX_TENSORS", 0), ("MAX_BYTES", 1000)])
def test_beyond_the_limit_memory_is_still_nan(monkeypatch: pytest.MonkeyPatch, name: str, limit: int) -> None:
    monkeypatch.setattr(redzone, name, limit)
    zones = RedZones(CPU)
    with zones.watch():
        assert torch.empty(3).isnan().all()
    assert not zones._zoned


def test_another_device_is_left_alone() -> None:
    with RedZones(torch.device("meta")).watch():
        assert torch.empty(3).device == CPU
    zones = RedZones(torch.device("cuda"))
    if torch.cuda.is_available():
        with zones.watch():
            torch.empty(3)
        assert not zones._zoned


def test_autograd_does_not_notice(zones: RedZones) -> None:
    """A fresh buffer that is written in place under autograd, in another thread too."""
    x = torch.ones(4, requires_grad=True)
    buffer = torch.empty(4)
    buffer[:2], buffer[2:] = 2 * x[:2], 3 * x[2:]
    thread = threading.Thread(target=lambda: buffer.sum().backward())  # type: ignore[no-untyped-call]
    thread.start()
    thread.join()
    assert x.grad is not None
    assert x.grad.tolist() == [2, 2, 3, 3]
    with torch.inference_mode():
        assert torch.empty(3).is_inference()
    assert zones.damage({}) is None


def test_functorch_and_fake_tensors_do_not_notice(zones: RedZones) -> None:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    x = torch.arange(6.0).reshape(2, 3)
    assert torch.func.vmap(lambda row: row.new_zeros(2) + row.sum())(x).tolist() == [[3, 3], [12, 12]]
    assert torch.func.grad(lambda x: (torch.empty_like(x).copy_(x) ** 2).sum())(x).equal(2 * x)
    with FakeTensorMode():
        assert isinstance(torch.empty(3), FakeTensor)
    with torch.device("meta"):
        assert torch.empty(3).is_meta


def test_a_compiler_does_not_notice() -> None:
    """Neither what it compiles, nor when it must compile again."""
    compiled = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return graph

    def function(x: Tensor) -> Tensor:
        return torch.empty(3).fill_(1) + x.new_zeros(3) + torch.full_like(x, 2.0) + x

    fast = torch.compile(function, fullgraph=True, backend=backend)
    x = torch.ones(3)
    for _ in range(2):
        with RedZones(CPU).watch():
            assert fast(x).tolist() == [4, 4, 4]
        assert fast(x).tolist() == [4, 4, 4]
    assert compiled == 1


def test_custom_operators_are_reached(zones: RedZones) -> None:
    """In Python behind the dispatcher, where no mode of the caller's is any more."""
    with torch.library._scoped_library("fa2verify_test", "FRAGMENT") as library:
        library.define("unwritten(Tensor x) -> Tensor")
        library.impl("unwritten", lambda x: x.new_empty(x.shape), "CPU")
        found = torch.ops.fa2verify_test.unwritten(torch.ones(3))
    assert found.isnan().all()
    poke(found, 3)
    assert zones.damage({"out": found}) is not None


@pytest.mark.parametrize("strange", ["sparse", "meta", "fake"])
def test_a_strange_output_has_no_address(zones: RedZones, strange: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.empty(3)
    outputs = {"sparse": torch.zeros(2, 2).to_sparse(), "meta": torch.empty(3, device="meta"), "fake": fake}
    poke(torch.empty(3), 3)
    damage = zones.damage({"out": outputs[strange]})
    assert damage is not None
    assert damage.tensor == "a workspace"


def test_an_output_that_is_a_part_of_more_is_named(zones: RedZones) -> None:
    workspace = torch.empty(4, 6)
    poke(workspace, 24)
    damage = zones.damage({"out": workspace[2:, 3:], "lse": torch.empty(3)})
    assert damage is not None
    assert (damage.tensor, damage.count, damage.places) == ("out", 24, (24,))


def test_the_zone_is_a_tile_and_keeps_alignment() -> None:
    assert redzone.ZONE % 512 == 0
    assert math.prod((64, 128, 2)) <= redzone.ZONE
