r"""Forward and backward of the margin softmax: time, interleaved, and peak memory, each in its own process.

python benchmarks/margin_cross_entropy.py
python benchmarks/margin_cross_entropy.py --samples 512 --classes 1000000 --rounds 3 \
    --subject fused --subject chunked
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketnet_fast.losses import margin_cross_entropy

Step = Callable[[Tensor, Tensor, Tensor], tuple[float, Tensor, Tensor]]

SCALE, MARGIN = 64.0, 0.5
CHUNK = 4096


def _loss(embedding: Tensor, kernel: Tensor, label: Tensor) -> Tensor:
    """The published formulation: all logits, the label's replaced, cross entropy."""
    cosine = (F.normalize(embedding) @ F.normalize(kernel, dim=0)).clamp(-1, 1)
    plain = cosine.gather(1, label.unsqueeze(1))
    return F.cross_entropy(
        SCALE * cosine.scatter(1, label.unsqueeze(1), _arcface(plain).to(cosine.dtype)), label
    )


def _autocast_loss(embedding: Tensor, kernel: Tensor, label: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return _loss(embedding, kernel, label)


def _arcface(plain: Tensor) -> Tensor:
    within = torch.cos(torch.acos(plain) + MARGIN)
    return torch.where(plain > math.cos(math.pi - MARGIN), within, plain - MARGIN * math.sin(MARGIN))


def _by_autograd(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Step:
    def step(embedding: Tensor, kernel: Tensor, label: Tensor) -> tuple[float, Tensor, Tensor]:
        value = loss(embedding, kernel, label)
        by_embedding, by_kernel = torch.autograd.grad(value, (embedding, kernel))
        return float(value.detach()), by_embedding, by_kernel

    return step


@torch.no_grad()
def _chunked(embedding: Tensor, kernel: Tensor, label: Tensor) -> tuple[float, Tensor, Tensor]:
    """Two passes over chunks of classes in plain PyTorch, logits recomputed: needs no kernel of ours."""
    samples, classes = len(label), kernel.shape[1]
    rows = F.normalize(embedding)
    lengths = kernel.norm(dim=0)
    with torch.enable_grad():
        plain = (rows * (kernel[:, label] / lengths[label]).T).sum(1).clamp(-1, 1).requires_grad_()
        target = SCALE * _arcface(plain)
        (slope,) = torch.autograd.grad(target.sum(), plain)
    here = torch.arange(samples)
    parts = []
    for first in range(0, classes, CHUNK):
        logits = rows @ kernel[:, first : first + CHUNK]
        logits *= SCALE / lengths[first : first + CHUNK]
        held = (label >= first) & (label < first + CHUNK)
        logits[here[held], label[held] - first] = target[held]
        parts.append(logits.logsumexp(1))
    lse = torch.stack(parts).logsumexp(0)
    by_kernel = torch.empty_like(kernel)
    by_rows = torch.zeros_like(rows)
    for first in range(0, classes, CHUNK):
        unit = kernel[:, first : first + CHUNK] / lengths[first : first + CHUNK]
        g = rows @ unit
        g *= SCALE
        held = (label >= first) & (label < first + CHUNK)
        at = here[held], label[held] - first
        g[at] = target[held]
        g.sub_(lse.unsqueeze(1)).exp_()
        g *= SCALE / samples
        g[at] = (g[at] - SCALE / samples) * slope[held] / SCALE
        by_rows.addmm_(g, unit.T)
        gradient = rows.T @ g
        gradient.addcmul_(unit, (unit * gradient).sum(0), value=-1.0)
        torch.div(gradient, lengths[first : first + CHUNK], out=by_kernel[:, first : first + CHUNK])
    by_rows -= rows * (rows * by_rows).sum(1, keepdim=True)
    return float((lse - target).mean()), by_rows / embedding.norm(dim=1, keepdim=True), by_kernel


SUBJECTS: dict[str, Callable[[], Step]] = {
    "fused": lambda: _by_autograd(lambda e, k, y: margin_cross_entropy(e, k, y, implementation="fused")),
    "fused bf16": lambda: _by_autograd(
        lambda e, k, y: margin_cross_entropy(e, k, y, implementation="fused", precision="bf16")
    ),
    "chunked": lambda: _chunked,
    "eager": lambda: _by_autograd(_loss),
    "eager bf16": lambda: _by_autograd(_autocast_loss),
    "compiled": lambda: _by_autograd(torch.compile(_loss, dynamic=False)),
}
# Relative distance to float32 that a subject's gradients may have.
TOLERANCES = {"fused bf16": 0.02, "eager bf16": 0.1}


def inputs(samples: int, dims: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    embedding = torch.randn(samples, dims).requires_grad_()
    kernel = torch.empty(dims, classes).normal_(std=0.01).requires_grad_()
    return embedding, kernel, torch.randint(0, classes, (samples,))


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure_memory(subject: str, samples: int, dims: int, classes: int) -> int:
    """Bytes by which one step raises this process's peak; run in a process of its own."""
    step = SUBJECTS[subject]()
    step(*inputs(2, dims, 64))
    problem = inputs(samples, dims, classes)
    if subject == "compiled":
        # Compilation for this shape raises the peak more than the step does.
        torch.compile(_loss, dynamic=False)(*problem)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
    before = _status("VmRSS")
    result = step(*problem)
    assert math.isfinite(result[0])
    return _status("VmHWM") - before


def _agree(
    found: tuple[float, Tensor, Tensor], expected: tuple[float, Tensor, Tensor], tolerance: float
) -> bool:
    close = abs(found[0] - expected[0]) < tolerance / 10 * abs(expected[0])
    pairs = zip(found[1:], expected[1:], strict=True)
    return close and all(float((a - b).norm() / b.norm()) < tolerance for a, b in pairs)


def _machine() -> str:
    from pocketnet_fast.machine import processor_name
    from pocketnet_fast.ops import native

    peak = native.extension().peak_gflops()
    return (
        f"{processor_name()}, {native.compiled_isa()}, {peak:.0f} GFLOP/s measured, torch {torch.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--classes", type=int, default=85_742)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--subject", action="append", choices=[*SUBJECTS])
    parser.add_argument("--memory-of", choices=[*SUBJECTS], help=argparse.SUPPRESS)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    sizes = (a.samples, a.dims, a.classes)
    if a.memory_of:
        print(json.dumps(measure_memory(a.memory_of, *sizes)))
        return

    names = a.subject or [*SUBJECTS]
    print(f"{_machine()}; {a.threads} thread(s), batch {a.samples}, {a.dims} dims, {a.classes:,} classes")
    floor = 8 * a.samples * a.dims * a.classes
    print(
        f"four products: {floor / 1e9:.1f} GFLOP; kernel's gradient: {4 * a.dims * a.classes / 2**20:.0f} MiB"
    )
    problem = inputs(*sizes)
    steps = {name: SUBJECTS[name]() for name in names}
    expected = steps[names[0]](*problem)
    for name, step in steps.items():
        tolerance = max(TOLERANCES.get(name, 1e-3), TOLERANCES.get(names[0], 0.0))
        if not _agree(step(*problem), expected, tolerance):
            sys.exit(f"{name} computes something else than {names[0]}; no time is reported")
    del expected
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(a.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step(*problem)
            times[name].append(time.perf_counter() - start)
    print(f"{'subject':>10} {'median ms':>10} {'best ms':>9} {'GFLOP/s':>8} {'peak MiB':>9}")
    for name in names:
        command = [sys.executable, __file__, "--memory-of", name]
        for option in ("samples", "dims", "classes", "threads"):
            command += [f"--{option}", str(getattr(a, option))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        median = statistics.median(times[name])
        print(
            f"{name:>10} {median * 1e3:>10.0f} {min(times[name]) * 1e3:>9.0f} {floor / median / 1e9:>8.0f} "
            f"{int(done.stdout.splitlines()[-1]) / 2**20:>+9.0f}"
        )


if __name__ == "__main__":
    main()
