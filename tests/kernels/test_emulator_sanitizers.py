"""The emulator's fibers run under the compiler's sanitizers, which then see what a kernel does to its own variables."""

import os
import subprocess
import sys

import pytest

SCRIPT = '''
import ctypes, sys
from fa2verify.kernels.cuda.emulator import EmulatorError, Range, prepared, run
from fa2verify.kernels.cuda.host_compiler import library
from fa2verify.kernels.cuda.source import flattened, host_entry

SOURCE = """
struct Arguments { int last; };
// The index is known only at run time.
void local_array(const Arguments& arguments) {
  volatile int local[4];
  for (int i = 0; i <= arguments.last; ++i) local[i] = i;  // line 5
  block_sync();
  if (thread_index() == 3) shuffle_xor(0.0f, 1);
}
void shift(const Arguments& arguments) {
  volatile int bits = 1 << (arguments.last + 29);  // line 10
  (void)bits;
}
"""
class Arguments(ctypes.Structure):
    _fields_ = (("last", ctypes.c_int),)

header = flattened(("machine.cuh",), leave_out="machine_gpu.cuh")
entries = "".join(host_entry(f"run_{name}", f"fa2::{name}", "fa2::Arguments") for name in ("local_array", "shift"))
built = library(f'{header}\\nnamespace fa2 {{\\n#line 1 "array.cu"{SOURCE}}}\\n{entries}')
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

for launch in range(int(sys.argv[3])):
    if launch == 1:
        before = resident()
    try:
        arguments = Arguments(int(sys.argv[2]))
        run(prepared(built, f"run_{sys.argv[1]}"), 2, 64, 64, ctypes.byref(arguments), (Range * 0)(), "k")
    except EmulatorError as error:
        print("reported" if "left the kernel" in str(error) else error)
print(resident() - before)
'''


def run(
    kernel: str, last: int, sanitizer: str, *, launches: int = 3, after_return: bool = False
) -> subprocess.CompletedProcess[str]:
    """Launch a kernel on 128 fibers, some times, in a process of its own, built with a sanitizer.

    It prints a line a report of the emulator, then how many pages of memory came to stay after the first launch.
    after_return  whether to look for uses of local variables after their function's return: compilers' defaults differ
    """
    compiler = os.environ.get("CXX", "g++")
    found = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = os.environ | {
        "FA2VERIFY_EMULATOR_FLAGS": f"-g -fsanitize={sanitizer} -fno-sanitize-recover=undefined",
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": f"detect_leaks=0:detect_stack_use_after_return={after_return:d}",
    }
    command = [sys.executable, "-c", SCRIPT, kernel, str(last), str(launches)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("after_return", [False, True])
def test_a_clean_kernel_and_one_that_is_abandoned_are_no_finding(after_return: bool) -> None:
    done = run("local_array", 3, "address,undefined", after_return=after_return)
    assert (done.returncode, done.stdout.splitlines()[:-1]) == (0, ["reported"] * 3), done.stderr


def test_a_fiber_that_has_ended_keeps_no_memory() -> None:
    launches = 31
    done = run("shift", 0, "address,undefined", launches=launches, after_return=True)
    assert done.returncode == 0, done.stderr
    # What the sanitizer keeps of a fiber is a page at least.
    assert int(done.stdout) < (launches - 1) * 128


@pytest.mark.parametrize(
    ("kernel", "last", "words"),
    [("local_array", 4, ["stack-buffer-overflow", "array.cu:5"]), ("shift", 3, ["array.cu:10", "shift"])],
)
def test_a_finding_names_the_line(kernel: str, last: int, words: list[str]) -> None:
    done = run(kernel, last, "address" if kernel == "local_array" else "address,undefined")
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr, done.stderr
