"""The emulator's instructions do what the PTX manual says: products, matrix loads, shuffles, conversions."""

import ctypes
from functools import cache

import pytest
import torch
from torch import Tensor

from fa2verify.kernels.cuda.emulator import prepared, ranges, run
from fa2verify.kernels.cuda.host_compiler import library
from fa2verify.kernels.cuda.source import flattened, host_entry

SOURCE = """
struct Arguments { u32* in; u32* out; };

// Fragments' registers in the order of lanes: a (4 a lane), two of b (2 each), two of d (4 each). They are drawn in the
// PTX manual, section "Matrix Fragments for mma.m16n8k16 with floating point type".
template <class T>
void product(const Arguments& args) {
  GlobalPointer<u32> in = global(args.in), out = global(args.out);
  u32 a[4], b[4];
  float d[2][4];
  for (int i = 0; i < 4; ++i) a[i] = load(in + (lane_index() * 4 + i));
  for (int i = 0; i < 4; ++i) b[i] = load(in + (128 + lane_index() * 4 + i));
  for (int i = 0; i < 8; ++i) d[i / 4][i % 4] = as_float(load(in + (256 + lane_index() * 8 + i)));
  multiply<T>(d[0], d[1], a, b);
  for (int i = 0; i < 8; ++i) store(out + (lane_index() * 8 + i), as_bits(d[i / 4][i % 4]));
}
void half_product(const Arguments& args) { product<Half>(args); }
void bfloat_product(const Arguments& args) { product<BFloat>(args); }

template <bool transposed>
void matrices(const Arguments& args) {
  Words row;
  for (int i = 0; i < 4; ++i) row.word[i] = load(global(args.in) + (lane_index() * 4 + i));
  Shared place = (31 - lane_index()) * 16;
  shared_store_words(place, row);
  warp_sync();
  u32 r[4];
  if (transposed) load_matrices_transposed(r, place);
  else load_matrices(r, place);
  for (int i = 0; i < 4; ++i) store(global(args.out) + (lane_index() * 4 + i), r[i]);
}
void plain_matrices(const Arguments& args) { matrices<false>(args); }
void transposed_matrices(const Arguments& args) { matrices<true>(args); }

void shuffles(const Arguments& args) {
  for (int bit = 0; bit < 5; ++bit)
    store(global(args.out) + (lane_index() * 5 + bit),
          as_bits(shuffle_xor(static_cast<float>(lane_index()), 1u << bit)));
}

// Lane l adds to word l % 4, and to the four words from 4 + l % 2 * 4 on.
void sums(const Arguments& args) {
  GlobalPointer<float> out = global(reinterpret_cast<float*>(args.out));
  float x = static_cast<float>(lane_index());
  atomic_add(out + lane_index() % 4, x);
  const float four[4] = {x, 2 * x, 3 * x, 4 * x};
  atomic_add_words(out + (4 + lane_index() % 2 * 4), four);
}

template <class T>
void conversions(const Arguments& args) {
  for (int i = lane_index(); i < 4096; i += 32) {
    u32 pair = pack<T>(as_float(load(global(args.in) + 2 * i)), as_float(load(global(args.in) + (2 * i + 1))));
    store(global(args.out) + i, pair);
    store(global(args.out) + (4096 + 2 * i), as_bits(unpack<T>(static_cast<u16>(pair))));
    store(global(args.out) + (4096 + 2 * i + 1), as_bits(unpack<T>(static_cast<u16>(pair >> 16))));
  }
}
void half_conversions(const Arguments& args) { conversions<Half>(args); }
void bfloat_conversions(const Arguments& args) { conversions<BFloat>(args); }
"""

NAMES = (
    *("half_product", "bfloat_product", "plain_matrices", "transposed_matrices", "shuffles", "sums"),
    *("half_conversions", "bfloat_conversions"),
)
DTYPES = {"half": torch.float16, "bfloat": torch.bfloat16}


class Arguments(ctypes.Structure):
    _fields_ = (("input", ctypes.c_void_p), ("out", ctypes.c_void_p))


@cache
def built() -> ctypes.CDLL:
    entries = "".join(host_entry(f"run_{name}", f"fa2::{name}", "fa2::Arguments") for name in NAMES)
    header = flattened(("machine.cuh",), leave_out="machine_gpu.cuh")
    return library(f"{header}\nnamespace fa2 {{\n{SOURCE}}}\n{entries}")


def launch(name: str, given: Tensor, count: int, fill: int = -1) -> Tensor:
    """Run a kernel of one warp on 32-bit words; gives `count` words, which begin as `fill`."""
    tensors = {"input": given.contiguous(), "out": torch.full((count,), fill, dtype=torch.int32)}
    arguments = Arguments(*(tensor.data_ptr() for tensor in tensors.values()))
    run(prepared(built(), f"run_{name}"), 1, 32, 512, ctypes.byref(arguments), ranges(tensors), name)
    return tensors["out"]


def words(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.int32).flatten()


@pytest.mark.parametrize("element", ["half", "bfloat"])
def test_two_products_are_matrix_products(element: str) -> None:
    a, b, d = (torch.randn(16, 16) for _ in range(3))
    a, b = a.to(DTYPES[element]), b.to(DTYPES[element])
    lane, pair = torch.arange(32)[:, None], torch.arange(2)
    row, column = lane // 4, lane % 4 * 2 + pair
    # Two of b, and of d, are columns 0 to 7 and 8 to 15.
    registers_a = torch.stack([a[row + i % 2 * 8, column + i // 2 * 8] for i in range(4)], 1)
    registers_b = torch.stack([b[column + i % 2 * 8, row + i // 2 * 8] for i in range(4)], 1)
    registers_d = torch.stack([d[row + i % 2 * 8, column + i // 2 * 8] for i in range(4)], 1)
    given = torch.cat([words(registers_a), words(registers_b), words(registers_d)])
    found = launch(f"{element}_product", given, 256).view(torch.float32).view(32, 4, 2)
    expected = a.double() @ b.double() + d
    # Sixteen exact products summed in fp32: 17 roundings at most, each of a partial sum.
    bound = 17 * 2**-24 * (a.double().abs() @ b.double().abs() + d.abs())
    for i in range(4):
        place = (row + i % 2 * 8, column + i // 2 * 8)
        assert ((found[:, i] - expected[place]).abs() <= bound[place]).all()


@pytest.mark.parametrize("name", ["plain_matrices", "transposed_matrices"])
def test_matrix_loads_deal_out_rows(name: str) -> None:
    matrices = torch.arange(256, dtype=torch.int16).view(4, 8, 8)
    found = launch(name, words(matrices), 128).view(torch.int16).view(32, 4, 2)
    shown = matrices.mT if name == "transposed_matrices" else matrices
    for lane in range(32):
        for matrix in range(4):
            expected = shown[matrix, lane // 4, lane % 4 * 2 : lane % 4 * 2 + 2]
            assert torch.equal(found[lane, matrix], expected), (lane, matrix)


def test_shuffles_exchange_lanes() -> None:
    found = launch("shuffles", torch.zeros(1, dtype=torch.int32), 160).view(torch.float32).view(32, 5)
    expected = torch.arange(32)[:, None] ^ (1 << torch.arange(5))
    assert torch.equal(found, expected.float())


def test_atomic_adds_lose_nothing() -> None:
    # `out` begins as the float whose bits are those of -1: a NaN, to which nothing can be added.
    assert launch("sums", torch.zeros(1, dtype=torch.int32), 12).view(torch.float32).isnan().all()
    found = launch("sums", torch.zeros(1, dtype=torch.int32), 12, fill=0).view(torch.float32)
    lanes = torch.arange(32.0)
    assert found[:4].tolist() == [lanes[first::4].sum() for first in range(4)]
    four = torch.arange(1.0, 5.0)
    assert torch.equal(found[4:], torch.cat([lanes[first::2].sum() * four for first in range(2)]))


@pytest.mark.parametrize("element", ["half", "bfloat"])
def test_conversions_round_to_nearest_even(element: str) -> None:
    dtype = DTYPES[element]
    # Every exponent; ties and what lies beside them; infinities and NaN.
    exact = torch.randint(-(2**15), 2**15, (1000,), dtype=torch.int16).view(dtype).float()
    above = (exact.view(torch.int32) + (0x1000 if element == "half" else 0x8000)).view(torch.float32)
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 65504.0, 65520.0, 3.4e38, 1e-45])
    beside = (above.view(torch.int32) + torch.randint(-1, 2, above.shape, dtype=torch.int32)).view(torch.float32)
    anything = torch.randint(-(2**31), 2**31 - 1, (8192,), dtype=torch.int32).view(torch.float32)
    values = torch.cat([special, exact, above, beside, anything])[:8192]
    found = launch(f"{element}_conversions", words(values), 4096 + 8192)
    rounded, back = found[:4096].view(dtype), found[4096:].view(torch.float32)
    expected = values.to(dtype)
    assert torch.equal(rounded.isnan(), expected.isnan())
    number = ~expected.isnan()
    assert torch.equal(rounded[number].view(torch.int16), expected[number].view(torch.int16))
    assert torch.equal(back[number], expected[number].float())
