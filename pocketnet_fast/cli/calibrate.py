"""``pocketnet calibrate``: thresholds for false accept rates, written into the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pocketnet_fast.cli.loading import load_model, new_set_name, weight_file
from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import (
    CropBatchOption,
    EngineOption,
    FlipOption,
    JsonOption,
    ModelOption,
    ThreadsOption,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress, waiting
from pocketnet_fast.cli.remarks import note
from pocketnet_fast.cli.thresholds import check_far, show_calibration
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.evaluation.compared_faces import ComparedFaces
    from pocketnet_fast.evaluation.thresholds import EmbeddedComparisons
    from pocketnet_fast.faces.pipeline import Embedder
    from pocketnet_fast.models.calibration import CalibratedPoint, Calibration

_FARS: Final = (1e-3, 1e-4, 1e-5)
_FEW: Final = 10
_POOR: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class _Goal:
    """Which rates thresholds are wanted for, and which pairs of which data say what they do.

    Attributes:
        more: Data sets that were given as arguments; no option.
    """

    far: Annotated[
        list[float] | None,
        typer.Option(
            help="False accept rate, once for each threshold; default: 1e-3, 1e-4 and 1e-5.",
            show_default=False,
        ),
    ] = None
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Verification pairs: .bin, .npz or a folder with pairs.csv; takes several. With --all-pairs "
            "also data sets of identities: a .rec file or a folder of one folder per identity."
        ),
    ] = None
    all_pairs: Annotated[
        bool,
        typer.Option(
            "--all-pairs", help="Compare all images of different people, not only the listed pairs."
        ),
    ] = False
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="With --all-pairs, for verification pairs: the contiguous parts that show different people.",
        ),
    ] = None
    more: tuple[Path, ...] = ()

    @property
    def fars(self) -> list[float]:
        """The rates, or those that are chosen by default."""
        return self.far or list(_FARS)

    @property
    def sources(self) -> list[Path]:
        """All data sets."""
        return [*(self.data or []), *self.more]

    def check(self) -> None:
        """Refuse rates that are none or stand twice, no data, and folds of listed pairs."""
        for index, far in enumerate(self.fars):
            check_far(far)
            if far in self.fars[:index]:
                raise PocketNetError(f"--far {far:g} is given twice")
        if not self.sources:
            raise PocketNetError("no data; pass --data FILE, at least once")
        if self.folds is not None and not self.all_pairs:
            raise PocketNetError("--folds belongs to --all-pairs; the listed pairs alone need no folds")

    def open(self) -> list[ComparedFaces]:
        """Open the data sets; what cannot answer is an error before anything is embedded."""
        from pocketnet_fast.evaluation.compared_faces import open_compared_faces
        from pocketnet_fast.evaluation.pair_files import is_pairs
        from pocketnet_fast.evaluation.thresholds import allowed_false_accepts

        if self.folds is not None and not any(is_pairs(source) for source in self.sources):
            raise PocketNetError("--folds is about files of pairs, and no data set is one")
        sets: dict[str, ComparedFaces] = {}
        for source in self.sources:
            name = new_set_name(source, sets)
            faces = open_compared_faces(source, name, all_pairs=self.all_pairs, folds=self.folds)
            sets[name] = faces
            try:
                allowed_false_accepts(name, faces.comparisons.impostor_pairs, min(self.fars))
            except PocketNetError as error:
                advice = "" if self.all_pairs else "; --all-pairs compares more than the listed ones"
                raise PocketNetError(f"{error}{advice}") from None
        return list(sets.values())


@grouped
def calibrate(
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="DATA", help="More data sets, as with --data.")
    ] = None,
    *,
    goal: _Goal,
    weights: Annotated[
        Path,
        typer.Option(help="Trained weights: .safetensors, .pth and the like, or a training run's folder."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors file to write.")],
    model: ModelOption = None,
    flip: FlipOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    batch: CropBatchOption = 16,
    as_json: JsonOption = False,
) -> None:
    """Choose the cosines from which two faces count as one person, and write them into a weight file.

    Of n pairs of two persons, FAR allows k = FAR * n to be accepted, rounded down; the threshold is the k-th
    highest of their cosines, the strictest that accepts these k (equal cosines: the next higher). Of several
    data sets the strictest threshold is taken, so that the rate holds on each. Nothing is extrapolated: fewer
    than 1 / FAR pairs of two persons are refused. What each threshold does is printed with intervals of 95 %.

    A file of pairs says no identities, but the folds of LFW and CFP show different people: with --all-pairs
    and --folds all images of different folds are compared. `verify`, `gallery search`, exported files and the
    C++ host decide by the threshold for FAR 1e-4 (else for the lowest), or by that of --far.

    Example: [bold]pocketnet calibrate --far 1e-3 --far 1e-4 --data lfw.bin --data cfp_fp.bin --all-pairs
    --folds 10 --weights s128.safetensors -o s128_calibrated.safetensors[/bold]
    """
    goal = replace(goal, more=tuple(more or ()))
    goal.check()
    _check_output(output)

    from pocketnet_fast.faces.pipeline import Embedder
    from pocketnet_fast.models.weights import save_calibrated

    # Opened, and their pairs counted, before a network is.
    sets = goal.open()
    file = weight_file(weights)
    network = load_model(model, file, untrained=False)
    embedder = Embedder(network, engine=engine, flip=flip, threads=threads, batch_size=batch)
    calibration = _calibrated(embedder, sets, goal)
    _remark(calibration.points)
    save_calibrated(file, output, network, calibration)
    if as_json:
        print_json(calibration.as_dict())
    else:
        show_calibration(calibration)
    note(f"wrote {output}")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("calibrate")(calibrate)


def _check_output(output: Path) -> None:
    if output.suffix != ".safetensors":
        raise PocketNetError(f"{output}: weights are written as .safetensors")
    if not output.resolve().parent.is_dir():
        raise PocketNetError(f"{output}: cannot be written: its folder does not exist")


def _calibrated(embedder: Embedder, sets: list[ComparedFaces], goal: _Goal) -> Calibration:
    from pocketnet_fast.evaluation.thresholds import calibrated_points
    from pocketnet_fast.models.calibration import Calibration

    embedded = _embed_all(sets, embedder)
    with waiting("comparing"):
        points = calibrated_points(embedded, goal.fars)
    weights = embedder.weights_sha256
    return Calibration.of(points, flip=embedder.flip, weights_sha256=weights, all_pairs=goal.all_pairs)


def _embed_all(sets: list[ComparedFaces], embedder: Embedder) -> list[EmbeddedComparisons]:
    from pocketnet_fast.evaluation.thresholds import EmbeddedComparisons, check_distinct
    from pocketnet_fast.evaluation.verification import embed_crops, unit_length

    embedded = []
    with progress(sum(len(faces) for faces in sets), "embedding") as advance:
        for faces in sets:
            rows = embed_crops(embedder, faces.crops(advance), batch_size=embedder.batch_size)
            unit = unit_length(rows)
            check_distinct(unit)
            embedded.append(EmbeddedComparisons(faces.comparisons, unit.astype("float32")))
    return embedded


def _remark(points: Sequence[CalibratedPoint]) -> None:
    """Say which thresholds are unsteady, and whether the network finds anybody."""
    from pocketnet_fast.models.calibration import far_text

    for point in points:
        # The data set that the threshold was chosen on accepts the most of what the rate allows.
        decisive = max(point.measured, key=lambda rates: rates.far)
        if decisive.false_accepts < _FEW:
            note(
                f"warning: the threshold for FAR {far_text(point.far)} rests on {decisive.false_accepts} "
                f"false accepts among {decisive.impostor_pairs:,} pairs of {decisive.dataset}, "
                f"and at least {_FEW} make it steady"
            )
    best = max((rates.tar for rates in points[0].measured if rates.tar is not None), default=None)
    if best is not None and best < _POOR:
        note(
            f"warning: at the threshold for FAR {far_text(points[0].far)} at most {100 * best:.1f} % of the "
            "pairs of one person are accepted; is the network trained, and are the images aligned?"
        )
