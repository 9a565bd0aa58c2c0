"""Write the steps of the published networks to tests/shapes/pocketnet_steps.json, for tests and benchmarks.

python benchmarks/shapes.py            # after a change of the lowering or of a model
python benchmarks/shapes.py --check    # fails when the file is stale
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import tests_path  # noqa: F401
from step_shapes import FILE, StateShape, StepShape, TermShape, to_json

import pocketnet_fast
from pocketnet_fast.lowering import lower
from pocketnet_fast.lowering.plan import GlobalDepthwiseStep, LinearStep, NodeStep, Plan, StemStep, Step

NETWORKS = {
    **{name: {"name": name} for name in pocketnet_fast.list_models() if name.startswith("pocketnet_")},
    "softmax_cifar10": {"name": "pocketnet", "genotype": "softmax_cifar10"},
}


def shape_of(plan: Plan, step: Step) -> StepShape:
    """What ``step`` reads, does and writes, without its numbers."""

    def state(index: int) -> StateShape:
        buffer = plan.buffers[index]
        return StateShape(buffer.channels, buffer.height, buffer.width)

    if isinstance(step, StemStep):
        return StepShape("stem", (StateShape(3, plan.height, plan.width),), state(step.output), step.macs)
    if isinstance(step, GlobalDepthwiseStep):
        return StepShape("global_depthwise", (state(step.source),), state(step.output), step.macs)
    if isinstance(step, LinearStep):
        return StepShape("linear", (state(step.source),), StateShape(plan.results, 1, 1), step.macs)
    assert isinstance(step, NodeStep)
    sources = list(dict.fromkeys(term.source for term in step.terms))
    terms = tuple(
        TermShape(
            term.kind.name.lower(),
            sources.index(term.source),
            term.kernel,
            term.stride,
            term.shift,
            term.first_out,
            term.out_blocks,
        )
        for term in step.terms
    )
    return StepShape("node", tuple(map(state, sources)), state(step.output), step.macs, terms)


def collect() -> list[StepShape]:
    """The distinct steps of all networks, in the order in which they first occur."""
    shapes: dict[StepShape, StepShape] = {}
    for network, arguments in NETWORKS.items():
        plan = lower(pocketnet_fast.create_model(**arguments))
        for step in plan.steps():
            found = shape_of(plan, step)
            uses = shapes.setdefault(found, found).uses
            uses[network] = uses.get(network, 0) + 1
    return list(shapes.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the file; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file is stale")
    check = parser.parse_args(arguments).check
    text = to_json(collect())
    if check:
        if not FILE.exists() or FILE.read_text() != text:
            print(f"{FILE} is stale: run python benchmarks/shapes.py", file=sys.stderr)
            return 1
        return 0
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text)
    print(f"written: {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
