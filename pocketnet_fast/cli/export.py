"""``pocketnet export``: a trained network as a file for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pocketnet_fast.cli.loading import (
    JsonOption,
    ModelOption,
    UntrainedOption,
    WeightsOption,
    load_model,
)


def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="The TorchScript file to write.")],
    *,
    model: ModelOption = "pocketnet_s128",
    weights: WeightsOption = None,
    untrained: UntrainedOption = False,
    kernels: Annotated[
        str, typer.Option(help="fused: our kernels, needs libpnf_ops.so; aten: any LibTorch.")
    ] = "fused",
    input: Annotated[
        str, typer.Option(help="float: N,3,112,112, normalised by the caller; uint8: N,112,112,3.")
    ] = "float",
    color: Annotated[str, typer.Option(help="Channel order of uint8 images: rgb or bgr.")] = "rgb",
    as_json: JsonOption = False,
) -> None:
    """Write a TorchScript file, check it against the source model and print the error.

    Example: [bold]pocketnet export --weights s128.safetensors --input uint8 -o s128.pt[/bold]
    """
    from pocketnet_fast.export.torchscript import export_torchscript

    network = load_model(model, weights, untrained)
    report = export_torchscript(network, output, kernels=kernels, input=input, color=color)
    if as_json:
        content = {"path": str(report.path), "error": report.error, "bytes": report.size}
        typer.echo(json.dumps({**content, "metadata": report.metadata}, indent=1))
    else:
        typer.echo(str(report))


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("export")(export)
