"""``pocketnet export``: a trained network as a file for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import (
    DetectorOption,
    FlipOption,
    JsonOption,
    MaxFacesOption,
    NetworkOptions,
    UprightOption,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import waiting
from pocketnet_fast.cli.thresholds import check_far, uncalibrated
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from torch import nn

    from pocketnet_fast.export.source import ExportReport
    from pocketnet_fast.faces.analyzer import FaceAnalyzer
    from pocketnet_fast.models.base import EmbeddingModel

_SUFFIXES = {"torchscript": ".pt", "aotinductor": ".pt2", "onnx": ".onnx", "pnf": ".pnf"}


@dataclass(frozen=True)
class _Target:
    """What is written, and for what it is made."""

    triton: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a file: a model repository of the Triton Inference Server, its configuration "
            "around a TorchScript file that takes uint8 images.",
            show_default=False,
        ),
    ] = None
    format: Annotated[
        str | None,
        typer.Option(
            help="torchscript (.pt), aotinductor (.pt2, for machines like this), onnx, or pnf for the C "
            "library libpocketnet; default: by name."
        ),
    ] = None
    kernels: Annotated[
        str | None,
        typer.Option(
            help="fused: our kernels, which on the CPU need libpnf_ops.so, and on CUDA are in a .pt2 only; "
            "aten: LibTorch alone. Default: fused, but for onnx."
        ),
    ] = None
    input: Annotated[
        str,
        typer.Option(
            help="float: N,3,112,112, normalised by the caller; uint8: N,112,112,3; of .pnf: uint8."
        ),
    ] = "float"
    color: Annotated[str, typer.Option(help="Channel order of uint8 images: rgb or bgr.")] = "rgb"
    device: Annotated[str, typer.Option(help="aotinductor: cpu or cuda.")] = "cpu"
    precision: Annotated[str, typer.Option(help="fused: fp32 or bf16; for cuda tf32 and fp16 too.")] = "fp32"

    def kind(self, output: Path | None) -> str:
        """The format that is asked for.

        Raises:
            PocketNetError: It is none, or not clear.
        """
        if self.format not in (None, *_SUFFIXES):
            raise PocketNetError(f"format is {self.format!r}; expected one of {', '.join(_SUFFIXES)}")
        if (output is None) == (self.triton is None):
            raise PocketNetError("name either a file to write with -o, or a model repository with --triton")
        if output is None:
            if self.format not in (None, "torchscript"):
                raise PocketNetError(f"--triton writes TorchScript; --format {self.format} is for files")
            return "torchscript"
        kind = self.format or next(
            (kind for kind, suffix in _SUFFIXES.items() if output.suffix == suffix), None
        )
        if kind is None:
            raise PocketNetError(
                f"{output}: a name in {', '.join(_SUFFIXES.values())} says the format, or --format"
            )
        return kind

    def check(self, kind: str, photos: bool) -> None:
        """Refuse options that a format does not have."""
        if kind != "aotinductor" and self.device != "cpu":
            raise PocketNetError("--device belongs to the format aotinductor")
        if kind == "pnf" and self.kernels == "aten":
            raise PocketNetError(
                "--kernels aten is for the other formats; a .pnf file is for the fused kernels"
            )
        if kind == "pnf" and (self.input, self.color) != ("float", "rgb"):
            raise PocketNetError(
                "--input and --color are for the other formats; to a .pnf file, images come with their own "
                "color"
            )
        if kind != "onnx":
            return
        if self.precision != "fp32":
            raise PocketNetError("--precision belongs to the formats torchscript, aotinductor and pnf")
        if self.kernels not in (None, "aten"):
            raise PocketNetError(
                "an ONNX file has standard operators only; --kernels fused is for the other formats"
            )
        if photos:
            raise PocketNetError("--photos is for the formats torchscript, aotinductor and pnf")


@dataclass(frozen=True)
class _Photos:
    """Whether the file takes photos, and how it looks at them."""

    photos: Annotated[
        bool,
        typer.Option(
            "--photos",
            help="The file takes photos, not crops, finds their faces and embeds them (torchscript, "
            "aotinductor, pnf); the next four options belong to it.",
        ),
    ] = False
    detector: DetectorOption = None
    upright: UprightOption = True
    flip: FlipOption = True
    max_faces: MaxFacesOption = None

    def check(self, kind: str) -> None:
        """Refuse options of photos where crops are taken."""
        if self.photos:
            return
        if self.detector is not None or not self.upright or self.max_faces is not None:
            raise PocketNetError("--detector, --no-upright and --max-faces belong to --photos")
        if kind != "pnf" and not self.flip:
            raise PocketNetError("--no-flip belongs to --photos and to the format pnf")

    def source(self, network: EmbeddingModel, precision: str) -> EmbeddingModel | FaceAnalyzer:
        """What is exported."""
        if not self.photos:
            return network
        from pocketnet_fast.faces.analyzer import FaceAnalyzer

        return FaceAnalyzer(
            model=network,
            detector=self.detector,
            precision=precision,
            flip=self.flip,
            upright=self.upright,
            max_faces=self.max_faces,
        )


@grouped
def export(
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The file to write: .pt, .pt2, .onnx or .pnf.", show_default=False
        ),
    ] = None,
    *,
    network: NetworkOptions,
    target: _Target,
    far: Annotated[
        float | None,
        typer.Option(
            help="The false accept rate that the file decides at by default, one of those that the weights "
            "were calibrated for; default: the weights' own. The file carries all.",
            show_default=False,
        ),
    ] = None,
    of_photos: _Photos,
    as_json: JsonOption = False,
) -> None:
    """Write the network as a file for other programs, check it against the source model and print the error.

    Example: [bold]pocketnet export --input uint8 --far 1e-5 -o s128.pt[/bold], the whole way from photos
    [bold]pocketnet export --photos -o faces.pt[/bold], for programs in C without LibTorch
    [bold]pocketnet export --photos -o faces.pnf[/bold], or for a GPU
    [bold]pocketnet export --device cuda --precision bf16 -o s128.pt2[/bold]. For the Triton Inference Server
    [bold]pocketnet export --triton models[/bold]
    """
    kind = target.kind(output)
    target.check(kind, of_photos.photos)
    of_photos.check(kind)
    check_far(far)
    model = network.trained_model()
    if far is not None:
        if model.calibration is None:
            raise uncalibrated(far)
        model.calibration = model.calibration.with_default(far)
    source = of_photos.source(model, target.precision)
    report = _written(kind, source, output, target, of_photos.flip)
    if as_json:
        content = {"path": str(report.path), "error": report.error, "bytes": report.size}
        print_json({**content, "metadata": report.metadata}, indent=1)
    else:
        typer.echo(str(report))


def _written(
    kind: str, source: nn.Module | FaceAnalyzer, output: Path | None, target: _Target, flip: bool
) -> ExportReport:
    from pocketnet_fast import export
    from pocketnet_fast.faces.analyzer import FaceAnalyzer

    kernels, precision = target.kernels or "fused", target.precision
    if output is None:
        assert target.triton is not None
        return export.export_triton(
            source, target.triton, kernels=kernels, color=target.color, precision=precision
        )
    if kind == "pnf":
        return export.export_library_file(source, output, precision=precision, flip=flip)
    images = {"input": target.input, "color": target.color}
    if kind == "onnx":
        assert not isinstance(source, FaceAnalyzer)
        return export.export_onnx(source, output, **images)
    if kind == "torchscript":
        return export.export_torchscript(source, output, kernels=kernels, precision=precision, **images)
    with waiting("compiling"):
        return export.export_aotinductor(
            source, output, kernels=kernels, device=target.device, precision=precision, **images
        )


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("export")(export)
