"""How far half precision on the CPU is from fp32, on faces.

    python benchmarks/half_precision.py train.rec --images 1000

Faces are taken at even distances from a record file or folder of training data. For every instruction set of
this CPU: cosines between an image's embedding in bf16 and the one in fp32.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import pocketnet_fast
from pocketnet_fast.data.records import RecordDataset
from pocketnet_fast.ops.native import available_isas, forced_isa


def faces(path: Path, count: int) -> torch.Tensor:
    """uint8 count,112,112,3."""
    dataset = RecordDataset(path)
    chosen = np.linspace(0, len(dataset.labels) - 1, count).astype(int)
    return torch.from_numpy(np.stack([dataset.image(int(i)) for i in chosen]))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a .rec file, or a folder with train.rec")
    parser.add_argument("--model", default="pocketnet_s128")
    parser.add_argument("--weights", help="a weight file instead of those that ship")
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    network = pocketnet_fast.create_model(arguments.model, pretrained=arguments.weights or True)
    pixels = faces(arguments.data, arguments.images)
    exact = pocketnet_fast.compile(network)(pixels).double()
    table = Table("instruction set", "mean cosine", "worst")
    for isa in available_isas("bf16"):
        if isa == "scalar" and arguments.images > 100:
            continue  # minutes, for what AVX2 computes as well
        with forced_isa(isa):
            half = pocketnet_fast.compile(network, precision="bf16")(pixels).double()
        cosine = torch.cosine_similarity(half, exact).sort().values
        table.add_row(isa, f"{cosine.mean():.6f}", f"{cosine[0]:.5f}")
    Console().print(table)


if __name__ == "__main__":
    main()
