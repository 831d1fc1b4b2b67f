"""What first calls race, and what they cost, on this GPU: `python -m fa2verify.kernels.triton.first_calls`.

In caches of its own, which start empty, one process makes the first calls of each head_dim, so that what it takes is
what a user waits for; then another makes the same calls. The first prints what it raced, every entrant's time and the
winner; the second must race nothing, take the same tiles and compute the same bits, or the exit status is 1.
With --together N the first process is N processes at once, of which one must race for all.
On a GPU whose rows of the table were raced this sets FA2VERIFY_TILES=race, without which nothing would.
"""

import argparse
import hashlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import time

import torch

from fa2verify.kernels.triton import choice
from fa2verify.kernels.triton.mode import interpreting

HEAD_DIMS = (64, 128, 256)
_RACED = re.compile(r"^(?P<race>\w+, head_dim \d+), on .*: raced ", re.MULTILINE)
_BITS = re.compile(r"^bits of .*$", re.MULTILINE)


def main(arguments: list[str] | None = None) -> int:
    """Run the processes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="first_calls", description="Show what first calls race on this GPU.")
    parser.add_argument("--head-dim", type=int, action="append", help="default: 64, 128, 256")
    parser.add_argument("--together", type=int, default=1, help="processes that start at once (default: %(default)s)")
    parser.add_argument(
        "--one-process", action="store_true", help="make the calls here, with the caches that are there"
    )
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available() or interpreting():
        print("first_calls needs a GPU that triton compiles for", file=sys.stderr)
        return 2
    head_dims = tuple(chosen.head_dim or HEAD_DIMS)
    if chosen.one_process:
        calls(head_dims)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        first = _processes(chosen.together, head_dims, folder)
        (later,) = _processes(1, head_dims, folder)
    found = faults(first, later, len(head_dims) * 3)
    print(*found or ["one race each, remembered: the same tiles and the same bits"], sep="\n")
    return int(bool(found))


def calls(head_dims: tuple[int, ...]) -> None:
    """Make a forward and a backward of each head_dim, and print what the log says, the seconds of each and its bits."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger(choice.__name__).setLevel(logging.INFO)
    from fa2verify.kernels.triton import flash_attn_func

    for head_dim in head_dims:
        generator = torch.Generator("cuda").manual_seed(0)
        q, k, v, dout = (
            torch.randn(2, 1000, 8, head_dim, generator=generator, device="cuda", dtype=torch.bfloat16)
            for _ in range(4)
        )
        for tensor in (q, k, v):
            tensor.requires_grad_()
        held = torch.cuda.memory_reserved()
        begin = time.monotonic()
        out = flash_attn_func(q, k, v, causal=True)
        torch.cuda.synchronize()
        middle = time.monotonic()
        gradients = torch.autograd.grad(out, (q, k, v), dout)
        torch.cuda.synchronize()
        end = time.monotonic()
        more = (torch.cuda.memory_reserved() - held) / 2**20
        print(f"head_dim {head_dim}: first forward {middle - begin:.1f} s, first backward {end - middle:.1f} s")
        print(f"{more:.0f} MiB more reserved after them than before")
        digest = hashlib.sha256()
        for tensor in (out, *gradients):
            digest.update(tensor.detach().view(torch.int16).cpu().numpy().tobytes())
        print(f"bits of head_dim {head_dim}: {digest.hexdigest()[:16]}", flush=True)


def faults(first: list[str], later: str, races: int) -> list[str]:
    """Say what is wrong with what the processes printed, of which the first had to run `races` races between them."""
    found = []
    raced = [match["race"] for text in first for match in _RACED.finditer(text)]
    if len(raced) != races or len(set(raced)) != races:
        found.append(f"{races} races were to be run, each once; run were {sorted(raced)}")
    if again := [match["race"] for match in _RACED.finditer(later)]:
        found.append(f"the later process raced again: {again}")
    bits = {tuple(_BITS.findall(text)) for text in (*first, later)}
    if len(bits) != 1 or not all(bits):
        found.append(f"the processes computed other bits: {sorted(bits)}")
    return found


def _processes(number: int, head_dims: tuple[int, ...], folder: str) -> list[str]:
    """What `number` processes print that start together, with their caches in `folder`. Prints it too."""
    environment = os.environ | {"FA2VERIFY_CACHE": f"{folder}/tiles", "TRITON_CACHE_DIR": f"{folder}/triton"}
    environment[choice.VARIABLE] = "race"
    options = [option for head_dim in head_dims for option in ("--head-dim", str(head_dim))]
    command = [sys.executable, "-P", "-m", "fa2verify.kernels.triton.first_calls", "--one-process", *options]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(number)
    ]
    printed = []
    for index, process in enumerate(running):
        text, _ = process.communicate()
        print(f"-- process {index + 1} of {number}\n{text}", flush=True)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        printed.append(text)
    return printed


if __name__ == "__main__":
    sys.exit(main())
