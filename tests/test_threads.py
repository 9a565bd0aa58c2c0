"""Threads beside torch's: after its operators, after a fork, among callers; how they wait, and for what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from command_line import runner

from pocketnet_fast import waiting
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.waiting import BUSY, ProcessorWaits

SCRIPT = """
import os, signal, sys, torch
from pocketnet_fast.lowering import lower
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.ops.run_plan import run_plan
torch.manual_seed(0)
torch.set_num_threads(2)
program = lower(PocketNet(SOFTMAX_CASIA, 4, 4, 16).eval()).encode()
pixels = torch.randint(0, 256, (5, 112, 112, 3), dtype=torch.uint8)
large = torch.rand(1 << 20)

def embed(threads, size=5):
    return run_plan(pixels[:size], *program, 16, threads=threads)

def equal(expected):
    return all(torch.equal(embed(threads, size), expected[:size]) for threads in (1, 2) for size in (1, 2, 5))
"""


def run_script(code: str, **environment: str) -> str:
    """Output of the code after ``SCRIPT``; a call that hangs fails."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow(seconds=5)
def test_after_parallel_operators_and_forks() -> None:
    """A forked child has none of torch's threads, and would wait for them, whoever made calls before."""
    code = """
def children(expected):
    for _ in range(3):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if equal(embed(1) if expected is None else expected) else 1)
        print(os.waitpid(child, 0)[1])

large.tanh()
children(None)
expected = embed(1)
for _ in range(20):
    large.tanh()
    assert equal(expected)
children(expected)
large.tanh()
assert equal(expected)
"""
    assert run_script(code).split() == ["0"] * 6


@pytest.mark.slow(seconds=4)
def test_callers_among_parallel_operators() -> None:
    code = """
import threading
expected = embed(1)
wrong = []

def call():
    for _ in range(15):
        large.tanh()
        if not equal(expected):
            wrong.append(1)

threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(wrong))
"""
    assert run_script(code) == "0"


def test_denormal_numbers_are_the_callers_choice() -> None:
    """Helpers treat them as the calling thread does, which ``torch.set_flush_denormal`` says."""
    from pocketnet_fast.lowering import lower
    from pocketnet_fast.ops.run_plan import run_plan

    torch.manual_seed(0)
    network = PocketNet(SOFTMAX_CASIA, 4, 4, 16).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 4:
                parameter.mul_(1e-8)
    program = lower(network).encode()
    pixels = torch.randn(1, 3, 112, 112)
    results = {}
    try:
        for flush in (False, True):
            if not torch.set_flush_denormal(flush):
                pytest.skip("this processor does not flush denormal numbers")
            results[flush] = run_plan(pixels, *program, 16, threads=1)
            for _ in range(50):
                assert torch.equal(run_plan(pixels, *program, 16, threads=2), results[flush])
    finally:
        torch.set_flush_denormal(False)


POLICY = """
import os, sys
{first}
from pocketnet_fast.cli.main import main
sys.argv = ["pocketnet", "--version"]
try:
    main()
except SystemExit:
    pass
print(sorted((k, v) for k, v in os.environ.items() if k in {names}))
"""


def policy_after_a_command(first: str, **environment: str) -> str:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    plain = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [sys.executable, "-c", POLICY.format(first=first, names=names)],
        env=plain | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.slow(seconds=5)
def test_commands_let_threads_spin_briefly_unless_told_otherwise() -> None:
    assert policy_after_a_command("") == "[('GOMP_SPINCOUNT', '10000')]"
    assert policy_after_a_command("", OMP_WAIT_POLICY="active") == "[('OMP_WAIT_POLICY', 'active')]"
    assert policy_after_a_command("", GOMP_SPINCOUNT="7") == "[('GOMP_SPINCOUNT', '7')]"
    # It is too late then.
    assert policy_after_a_command("import torch") == "[]"


@pytest.mark.slow(seconds=3)
def test_the_package_leaves_the_environment() -> None:
    code = (
        "import os; before = dict(os.environ); import pocketnet_fast, pocketnet_fast.cli.main\n"
        "pocketnet_fast.create_model('pocketnet_s128'); print(before == dict(os.environ))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def busy_for(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel keeps no such figures")
def test_waits_for_a_processor_are_seen() -> None:
    """Two threads on one processor wait half of their time; one that sleeps waits for nothing."""
    processors = os.sched_getaffinity(0)

    def work() -> None:
        os.sched_setaffinity(0, {min(processors)})
        start.wait()
        # Outside the interpreter's lock, which only one thread holds.
        for _ in range(20):
            torch.mm(square, square)
        done.wait()
        # The system forgets what a thread waited for as soon as it has ended.
        measured.wait()

    square = torch.rand(700, 700)
    start, done, measured = threading.Barrier(3), threading.Barrier(3), threading.Event()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        with ProcessorWaits() as waits:
            start.wait()
            done.wait()
    finally:
        measured.set()
        torch.set_num_threads(before)
    for thread in threads:
        thread.join()
    assert waits.busy
    assert waits.share is not None
    assert waits.share > 0.2


def test_no_figures_of_the_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(waiting, "_TASKS", tmp_path / "missing")
    with ProcessorWaits() as waits:
        busy_for(0.01)
    assert waits.share is None
    assert not waits.busy


@pytest.mark.parametrize("wait", [0, 10**12])
@pytest.mark.slow(seconds=3)
def test_bench_says_when_the_machine_was_busy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wait: int
) -> None:
    scheduled = iter([{"1": (0, 0)}, {"1": (10**9, wait)}] * 2)
    monkeypatch.setattr(waiting, "_scheduled", lambda: next(scheduled))
    pocketnet = runner(monkeypatch, capsys, "bench", "--repeat", "1")
    assert ("The machine was busy" in pocketnet().out) == (wait > 0)
    found = json.loads(pocketnet("--json").out)
    assert found["busy"] == (wait > 0)
    assert (found["waited_for_processors"] > BUSY) == (wait > 0)
