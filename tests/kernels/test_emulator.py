"""The emulator catches what it must: each kernel here has one defect, and the report names its line."""

import ctypes
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

from fa2verify.kernels.cuda.emulator import EmulatorError, prepared, ranges, run
from fa2verify.kernels.cuda.host_compiler import library, unavailable
from fa2verify.kernels.cuda.source import flattened, host_entry

THREADS = 64
SHARED_BYTES = 2048

# Kernels of (in: fp32 as u32, out: u32, words: 16-bit rows of 8). Each HERE names the line that a report must name.
SOURCE = """
struct Arguments { u32* in; u32* out; u16* words; int* cursor; };

void neighbours(const Arguments& a, bool first_sync, bool second_sync) {
  GlobalPointer<u32> in = global(a.in), out = global(a.out);
  Shared own = thread_index() * 4, other = (thread_index() + 32) % 64 * 4;
  for (int round = 0; round < 2; ++round) {
    shared_store(own, load(in + thread_index()) + round);  // HERE write
    if (first_sync) block_sync();
    store(out + thread_index(), shared_load(other));  // HERE read
    if (second_sync) block_sync();
  }
}
void good(const Arguments& a) { neighbours(a, true, true); }
void missing_first_barrier(const Arguments& a) { neighbours(a, false, true); }
void missing_second_barrier(const Arguments& a) { neighbours(a, true, false); }

void lanes(const Arguments& a, bool sync) {
  shared_store(thread_index() * 4, thread_index());
  if (sync) warp_sync();
  store(global(a.out) + thread_index(), shared_load((thread_index() ^ 1) * 4));  // HERE lane_read
}
void good_lanes(const Arguments& a) { lanes(a, true); }
void missing_warp_barrier(const Arguments& a) { lanes(a, false); }

void copies(const Arguments& a, int wait) {
  copy_async(thread_index() * 16, global(a.words) + thread_index() * 8, true);  // HERE copy
  commit_copies();
  copy_async(1024 + thread_index() * 16, global(a.words) + thread_index() * 8, false);
  commit_copies();
  if (wait == 0) wait_copies<0>();
  if (wait == 1) wait_copies<1>();
  Words mine = shared_load_words(thread_index() * 16);  // HERE copy_read
  store(global(a.out) + thread_index(), mine.word[0]);
}
void good_copies(const Arguments& a) { copies(a, 1); }
void missing_wait(const Arguments& a) { copies(a, 2); }
void copy_seen_by_others(const Arguments& a) {
  copy_async(thread_index() * 16, global(a.words) + thread_index() * 8, true);
  commit_copies();
  wait_copies<0>();
  shared_load_words((thread_index() ^ 32) * 16);  // HERE other_read
}
void copy_over_read(const Arguments& a) {
  shared_store_words(thread_index() * 16, Words{});
  block_sync();
  shared_load_words((thread_index() ^ 32) * 16);
  copy_async(thread_index() * 16, global(a.words) + thread_index() * 8, true);  // HERE over_read
}

void off_by_one_row(const Arguments& a) {
  load_words(global(a.words) + (thread_index() + 1) * 8);  // HERE row
}
void off_by_one_copy(const Arguments& a) {
  copy_async(thread_index() * 16, global(a.words) + (i64(thread_index()) - 1) * 8, true);  // HERE copy_row
}
void into_neighbour(const Arguments& a) {
  store(global(a.out) + (reinterpret_cast<u32*>(a.words) - a.out), 1u);  // HERE neighbour
}
void no_tensor(const Arguments& a) {
  load(global(a.in + 1));  // HERE no_tensor
}
void off_by_one_add(const Arguments& a) {
  const float x[4] = {};
  atomic_add_words(global(reinterpret_cast<float*>(a.out)) + (thread_index() + 1) * 4, x);  // HERE add
}
void off_by_one_add_of_one(const Arguments& a) {
  atomic_add(global(reinterpret_cast<float*>(a.out)) + (i64(thread_index()) - 1), 1.0f);  // HERE add_one
}
void misaligned_add(const Arguments& a) {
  const float x[4] = {};
  atomic_add_words(global(reinterpret_cast<float*>(a.out)) + 2, x);  // HERE misaligned_add
}
void words(const Arguments& a, bool wait) {
  copy_async_word(thread_index() * 4, global(a.in) + thread_index(), thread_index() != 3);  // HERE word
  commit_copies();
  if (wait) wait_copies<0>();
  store(global(a.out) + thread_index(), shared_load(thread_index() * 4));  // HERE word_read
}
void good_words(const Arguments& a) { words(a, true); }
void missing_word_wait(const Arguments& a) { words(a, false); }
void off_by_one_word(const Arguments& a) {
  copy_async_word(thread_index() * 4, global(a.in) + (thread_index() + 1), true);  // HERE word_row
}
void shared_overrun(const Arguments&) {
  shared_store_words(1024 + (thread_index() + 1) * 16, Words{});  // HERE overrun
}
void misaligned(const Arguments& a) {
  load_words(global(a.words) + 4);  // HERE misaligned
}
void misaligned_shared(const Arguments&) {
  shared_store(thread_index() * 4 + 2, 1);  // HERE misaligned_shared
}
void never_written(const Arguments&) {
  shared_load(64 * 4);  // HERE unwritten
}

void divergent_barrier(const Arguments&) {
  if (thread_index() < 40) {
    block_sync();  // HERE barrier_one
  } else {
    block_sync();  // HERE barrier_two
  }
}
void skipped_barrier(const Arguments&) {
  if (thread_index() != 5) block_sync();  // HERE skipped
}
void divergent_shuffle(const Arguments&) {
  if (lane_index() < 16) {
    shuffle_xor(1.0f, 1);  // HERE shuffle_one
  } else {
    shuffle_xor(2.0f, 1);  // HERE shuffle_two
  }
}
void skipped_shuffle(const Arguments&) {
  if (lane_index() != 7) shuffle_xor(1.0f, 1);  // HERE skipped_shuffle
}
void shuffle_against_barrier(const Arguments&) {
  if (lane_index() == 3) block_sync();  // HERE barrier_there
  else shuffle_xor(1.0f, 1);  // HERE shuffle_there
}

void unset_register(const Arguments& a) {
  float sum[4], other[4];
  u32 left[4] = {}, right[4] = {};
  multiply<Half>(sum, other, left, right);
  store(global(a.out) + thread_index(), as_bits(sum[0]));
}

// Everybody notes when it was its turn.
void turns(const Arguments& a) {
  warp_sync();
  int turn = load(global(a.cursor));
  store(global(a.cursor), turn + 1);
  store(global(a.out) + turn, block_index() * 64 + thread_index());
}
"""

NAMES = [line.split("(")[0].split()[1] for line in SOURCE.splitlines() if line.startswith("void ")]
LINES = {line.split("// HERE ")[1]: number for number, line in enumerate(SOURCE.splitlines()) if "// HERE" in line}


class Arguments(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("input", "out", "words", "cursor"))


@pytest.fixture(scope="session", autouse=True)
def _here() -> Iterator[None]:
    assert unavailable() == ()
    return


@cache
def built() -> ctypes.CDLL:
    entries = "".join(
        host_entry(f"run_{name}", f"fa2::{name}", "fa2::Arguments")
        for name in NAMES
        if name not in ("neighbours", "lanes", "copies", "words")
    )
    header = flattened(("machine.cuh",), leave_out="machine_gpu.cuh")
    return library(f'{header}\nnamespace fa2 {{\n#line 1 "defects.cu"{SOURCE}}}\n{entries}')


def launch(name: str, blocks: int = 1, words: Tensor | None = None) -> Tensor:
    """Run a kernel; gives `out`."""
    tensors = {
        "input": torch.arange(THREADS, dtype=torch.int32),
        "out": torch.full((4 * THREADS,), -1, dtype=torch.int32),
        "words": torch.ones(THREADS, 8, dtype=torch.float16) if words is None else words,
        "cursor": torch.zeros(1, dtype=torch.int32),
    }
    arguments = Arguments(*(tensor.data_ptr() for tensor in tensors.values()))
    function = prepared(built(), f"run_{name}")
    run(function, blocks, THREADS, SHARED_BYTES, ctypes.byref(arguments), ranges(tensors), name)
    return tensors["out"]


def report(name: str) -> str:
    with pytest.raises(EmulatorError) as caught:
        launch(name)
    return str(caught.value)


def at(place: str) -> str:
    return f"defects.cu:{LINES[place]}"


def test_a_right_kernel_runs_and_is_right() -> None:
    exchanged = (torch.arange(THREADS, dtype=torch.int32) + 32) % THREADS + 1
    for _ in range(20):
        assert torch.equal(launch("good")[:THREADS], exchanged)


def test_lanes_that_meet_at_a_warp_barrier_see_each_other() -> None:
    assert torch.equal(launch("good_lanes")[:THREADS], torch.arange(THREADS, dtype=torch.int32) ^ 1)


def test_a_copy_is_there_after_its_wait() -> None:
    assert launch("good_copies", words=torch.full((THREADS, 8), 1.0, dtype=torch.float16))[0] == 0x3C003C00


def test_a_word_is_there_after_its_wait_or_zero() -> None:
    expected = torch.arange(THREADS, dtype=torch.int32)
    expected[3] = 0
    assert torch.equal(launch("good_words")[:THREADS], expected)


@pytest.mark.parametrize(
    ("name", "places", "words"),
    [
        # Too early, the neighbour reads what nobody has written; too late, it is lucky, which is a race all the same.
        ("missing_first_barrier", ["read"], "of shared memory, "),
        ("missing_second_barrier", ["write", "read"], "race"),
        ("missing_warp_barrier", ["lane_read"], "of shared memory, "),
        ("missing_wait", ["copy_read", "copy"], "a copy that no wait has finished"),
        ("copy_seen_by_others", ["other_read"], ""),
        ("copy_over_read", ["over_read"], "of shared memory, "),
        ("off_by_one_row", ["row"], "load of 16 bytes at byte 1024 of words, which has 1024"),
        ("off_by_one_copy", ["copy_row"], "copy of 16 bytes at byte -16 of words"),
        ("into_neighbour", ["neighbour"], "of out, which has 1024"),
        ("no_tensor", ["no_tensor"], "no tensor"),
        ("off_by_one_add", ["add"], "atomic_add of 16 bytes at byte 1024 of out, which has 1024"),
        ("off_by_one_add_of_one", ["add_one"], "atomic_add of 4 bytes at byte -4 of out"),
        ("misaligned_add", ["misaligned_add"], "misaligned atomic_add of 16 bytes"),
        ("missing_word_wait", ["word_read", "word"], "a copy that no wait has finished"),
        ("off_by_one_word", ["word_row"], "copy of 4 bytes at byte 256 of input, which has 256"),
        ("shared_overrun", ["overrun"], "of shared memory, which has 2048, thread 63"),
        ("misaligned", ["misaligned"], "misaligned load of 16 bytes"),
        ("misaligned_shared", ["misaligned_shared"], "misaligned write of 4 bytes"),
        ("never_written", ["unwritten"], "which nobody has written"),
        ("divergent_barrier", ["barrier_one", "barrier_two"], "divergent barrier"),
        ("skipped_barrier", ["skipped"], "threads 5 to 5: left the kernel"),
        ("divergent_shuffle", ["shuffle_one", "shuffle_two"], "divergent warp operation"),
        ("skipped_shuffle", ["skipped_shuffle"], "left the kernel"),
        ("shuffle_against_barrier", ["barrier_there", "shuffle_there"], "stuck"),
    ],
)
def test_a_defect_is_reported_with_its_line(name: str, places: list[str], words: str) -> None:
    for _ in range(10):
        text = report(name)
        for place in places:
            assert at(place) in text, text
        assert words in text, text


def test_a_register_that_nobody_set_is_nan() -> None:
    assert launch("unset_register")[:THREADS].view(torch.float32).isnan().all()


def test_who_waits_where_is_in_the_report() -> None:
    text = report("divergent_barrier")
    assert f"threads 0 to 39: block_sync at {at('barrier_one')}" in text
    assert f"threads 40 to 63: block_sync at {at('barrier_two')}" in text


def test_a_launch_after_a_defect_is_unharmed() -> None:
    report("skipped_barrier")
    test_a_right_kernel_runs_and_is_right()


def test_warps_and_blocks_run_in_many_orders() -> None:
    orders = {tuple(launch("turns", blocks=3)[: 3 * THREADS].tolist()) for _ in range(20)}
    assert len(orders) == 20
    assert all(sorted(order) == list(range(3 * THREADS)) for order in orders)
    assert len({order[0] // THREADS for order in orders}) == 3
    assert len({order[0] % THREADS // 32 for order in orders}) == 2
