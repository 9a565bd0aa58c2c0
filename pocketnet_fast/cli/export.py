"""``pocketnet export``: a trained network as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pocketnet_fast.cli.loading import (
    DetectorOption,
    FlipOption,
    JsonOption,
    ModelOption,
    UntrainedOption,
    UprightOption,
    WeightsOption,
    load_model,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import waiting
from pocketnet_fast.cli.thresholds import check_far, uncalibrated
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from torch import nn

    from pocketnet_fast.faces.analyzer import FaceAnalyzer

_SUFFIXES = {"torchscript": ".pt", "aotinductor": ".pt2", "onnx": ".onnx", "pnf": ".pnf"}


def export(
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The file to write: .pt, .pt2, .onnx or .pnf.", show_default=False
        ),
    ] = None,
    *,
    triton: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a file: a model repository of the Triton Inference Server, its configuration "
            "around a TorchScript file that takes uint8 images.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    untrained: UntrainedOption = False,
    format: Annotated[
        str | None,
        typer.Option(
            help="torchscript (.pt), aotinductor (.pt2, for machines like this), onnx, or pnf for the C "
            "library libpocketnet; default: by name."
        ),
    ] = None,
    kernels: Annotated[
        str | None,
        typer.Option(
            help="fused: our kernels, which on the CPU need libpnf_ops.so, and on CUDA are in a .pt2 only; "
            "aten: LibTorch alone. Default: fused, but for onnx."
        ),
    ] = None,
    input: Annotated[
        str,
        typer.Option(
            help="float: N,3,112,112, normalised by the caller; uint8: N,112,112,3; of .pnf: uint8."
        ),
    ] = "float",
    color: Annotated[str, typer.Option(help="Channel order of uint8 images: rgb or bgr.")] = "rgb",
    device: Annotated[str, typer.Option(help="aotinductor: cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fused: fp32 or bf16; for cuda tf32 and fp16 too.")] = "fp32",
    far: Annotated[
        float | None,
        typer.Option(
            help="The false accept rate that the file decides at by default, one of those that the weights "
            "were calibrated for; default: the weights' own. The file carries all.",
            show_default=False,
        ),
    ] = None,
    photos: Annotated[
        bool,
        typer.Option(
            "--photos",
            help="The file takes photos, not crops, finds their faces and embeds them (torchscript, "
            "aotinductor, pnf); the next four options belong to it.",
        ),
    ] = False,
    detector: DetectorOption = None,
    upright: UprightOption = True,
    flip: FlipOption = True,
    max_faces: Annotated[
        int | None, typer.Option(min=1, help="Of a photo, the most prominent; default: all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the network as a file for other programs, check it against the source model and print the error.

    Example: [bold]pocketnet export --input uint8 --far 1e-5 -o s128.pt[/bold], the whole way from photos
    [bold]pocketnet export --photos -o faces.pt[/bold], for programs in C without LibTorch
    [bold]pocketnet export --photos -o faces.pnf[/bold], or for a GPU
    [bold]pocketnet export --device cuda --precision bf16 -o s128.pt2[/bold]. For the Triton Inference Server
    [bold]pocketnet export --triton models[/bold]
    """
    kind = _kind(output, triton, format)
    _check_options(kind, device, precision, kernels, photos=photos)
    _check_of_photos(kind, detector, upright, flip, max_faces, photos=photos)
    if kind == "pnf" and (input, color) != ("float", "rgb"):
        raise PocketNetError(
            "--input and --color are for the other formats; to a .pnf file, images come with their own color"
        )
    check_far(far)
    network = load_model(model, weights, untrained)
    if far is not None:
        if network.calibration is None:
            raise uncalibrated(far)
        network.calibration = network.calibration.with_default(far)
    source: nn.Module | FaceAnalyzer = network
    if photos:
        from pocketnet_fast.faces.analyzer import FaceAnalyzer

        source = FaceAnalyzer(
            model=network,
            detector=detector,
            precision=precision,
            flip=flip,
            upright=upright,
            max_faces=max_faces,
        )
    of_network = kernels or "fused"
    if output is None:
        from pocketnet_fast.export.triton import export_triton

        report = export_triton(
            source, cast(Path, triton), kernels=of_network, color=color, precision=precision
        )
    elif kind == "onnx":
        from pocketnet_fast.export.onnx import export_onnx

        report = export_onnx(network, output, input=input, color=color)
    elif kind == "pnf":
        from pocketnet_fast.export.library_file import export_library_file

        report = export_library_file(source, output, precision=precision, flip=flip)
    elif kind == "aotinductor":
        from pocketnet_fast.export.aotinductor import export_aotinductor

        with waiting("compiling"):
            report = export_aotinductor(
                source,
                output,
                kernels=of_network,
                input=input,
                color=color,
                device=device,
                precision=precision,
            )
    else:
        from pocketnet_fast.export.torchscript import export_torchscript

        report = export_torchscript(
            source, output, kernels=of_network, input=input, color=color, precision=precision
        )
    if as_json:
        content = {"path": str(report.path), "error": report.error, "bytes": report.size}
        print_json({**content, "metadata": report.metadata}, indent=1)
    else:
        typer.echo(str(report))


def _kind(output: Path | None, triton: Path | None, format: str | None) -> str:
    """Return the format that is asked for.

    Raises:
        PocketNetError: If it is none, or not clear.
    """
    if format not in (None, *_SUFFIXES):
        raise PocketNetError(f"format is {format!r}; expected one of {', '.join(_SUFFIXES)}")
    if (output is None) == (triton is None):
        raise PocketNetError("name either a file to write with -o, or a model repository with --triton")
    if output is None:
        if format not in (None, "torchscript"):
            raise PocketNetError(f"--triton writes TorchScript; --format {format} is for files")
        return "torchscript"
    kind = format or next((kind for kind, suffix in _SUFFIXES.items() if output.suffix == suffix), None)
    if kind is None:
        raise PocketNetError(
            f"{output}: a name in {', '.join(_SUFFIXES.values())} says the format, or --format"
        )
    return kind


def _check_options(kind: str, device: str, precision: str, kernels: str | None, *, photos: bool) -> None:
    """Refuse options that a format does not have."""
    if kind != "aotinductor" and device != "cpu":
        raise PocketNetError("--device belongs to the format aotinductor")
    if kind == "pnf" and kernels == "aten":
        raise PocketNetError("--kernels aten is for the other formats; a .pnf file is for the fused kernels")
    if kind != "onnx":
        return
    if precision != "fp32":
        raise PocketNetError("--precision belongs to the formats torchscript, aotinductor and pnf")
    if kernels not in (None, "aten"):
        raise PocketNetError(
            "an ONNX file has standard operators only; --kernels fused is for the other formats"
        )
    if photos:
        raise PocketNetError("--photos is for the formats torchscript, aotinductor and pnf")


def _check_of_photos(
    kind: str, detector: Path | None, upright: bool, flip: bool, max_faces: int | None, *, photos: bool
) -> None:
    """Refuse options of photos where crops are taken."""
    if photos:
        return
    if detector is not None or not upright or max_faces is not None:
        raise PocketNetError("--detector, --no-upright and --max-faces belong to --photos")
    if kind != "pnf" and not flip:
        raise PocketNetError("--no-flip belongs to --photos and to the format pnf")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("export")(export)
