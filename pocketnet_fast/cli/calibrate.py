"""``pocketnet calibrate``: a threshold for a false accept rate, written into the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pocketnet_fast.cli.loading import (
    EngineOption,
    JsonOption,
    ModelOption,
    ThreadsOption,
    load_model,
    note,
    weight_file,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.data.images import ImageArray
    from pocketnet_fast.evaluation.thresholds import Threshold
    from pocketnet_fast.faces.pipeline import Embedder

_FEW: Final = 10
_POOR: Final = 0.5


def calibrate(
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="DATA", help="More data sets, as with --data.")
    ] = None,
    *,
    far: Annotated[float, typer.Option(help="False accept rate, such as 1e-3.")],
    weights: Annotated[
        Path,
        typer.Option(help="Trained weights: .safetensors, .pth and the like, or a training run's folder."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors file to write.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Verification pairs: .bin, .npz or a folder with pairs.csv; several are pooled. With "
            "--all-pairs, one data set of identities: a .rec file or a folder of one folder per identity."
        ),
    ] = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Compare every image with every other; needs identities.")
    ] = False,
    model: ModelOption = None,
    flip: Annotated[
        bool, typer.Option("--flip/--no-flip", help="Add the embeddings of the mirror images.")
    ] = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per call.")] = 16,
    as_json: JsonOption = False,
) -> None:
    """Choose the cosine from which two faces count as one person, and write it into a weight file.

    Of n pairs of two persons, FAR allows k = FAR * n to be accepted, rounded down; the threshold is the k-th
    highest of their cosines, the strictest that accepts these k (equal cosines: the next higher). Nothing is
    extrapolated: fewer than 1 / FAR pairs of two persons are refused. A file of pairs says no identities, so
    only its own pairs are used; --all-pairs forms all pairs of a data set that does. `verify`, exported files
    and the C++ host decide by the threshold; it holds for these weights alone.

    Example: [bold]pocketnet calibrate --far 1e-3 --data lfw.bin --weights s128.safetensors -o
    s128_calibrated.safetensors[/bold]
    """
    sources = [*(data or []), *(more or [])]
    if not 0 < far < 1:
        raise PocketNetError(f"--far is {far:g}; expected a rate above 0 and below 1")
    if not sources or (all_pairs and len(sources) > 1):
        wanted = "one data set of identities" if all_pairs else "--data FILE, at least once"
        raise PocketNetError(f"{len(sources)} data sets given; expected {wanted}")
    if output.suffix != ".safetensors":
        raise PocketNetError(f"{output}: weights are written as .safetensors")
    if not output.resolve().parent.is_dir():
        raise PocketNetError(f"{output}: cannot be written: its folder does not exist")

    from pocketnet_fast.faces.pipeline import Embedder
    from pocketnet_fast.models.calibration import Calibration
    from pocketnet_fast.models.weights import save_calibrated

    # Opened, and their pairs counted, before a network is.
    choose = _all_pairs(sources[0], far) if all_pairs else _pairs(sources, far)
    file = weight_file(weights)
    network = load_model(model, file, untrained=False)
    embedder = Embedder(network, engine=engine, flip=flip, threads=threads, batch_size=batch)
    chosen = choose(embedder)
    calibration = Calibration(
        threshold=chosen.cosine,
        far=far,
        measured_far=chosen.false_accepts / chosen.impostor_pairs,
        measured_tar=chosen.true_accepts / chosen.genuine_pairs if chosen.genuine_pairs else None,
        impostor_pairs=chosen.impostor_pairs,
        genuine_pairs=chosen.genuine_pairs,
        dataset=" + ".join(source.resolve().stem for source in sources)
        + (" (all pairs)" if all_pairs else ""),
        flip=flip,
        weights_sha256=embedder.weights_sha256,
    )
    if chosen.false_accepts < _FEW:
        note(
            f"warning: the threshold rests on {chosen.false_accepts} false accepts among "
            f"{chosen.impostor_pairs:,} pairs of two persons; at least {_FEW} make it steady"
        )
    if calibration.measured_tar is not None and calibration.measured_tar < _POOR:
        note(
            f"warning: at this threshold only {100 * calibration.measured_tar:.1f} % of the pairs of one "
            "person are accepted; is the network trained, and are the images aligned?"
        )
    save_calibrated(file, output, network, calibration)
    if as_json:
        print_json(calibration.as_dict())
    else:
        typer.echo(str(calibration))
    note(f"wrote {output}")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("calibrate")(calibrate)


def _pairs(sources: list[Path], far: float) -> Callable[[Embedder], Threshold]:
    import numpy as np

    from pocketnet_fast.evaluation.pairs import open_pairs
    from pocketnet_fast.evaluation.thresholds import allowed_false_accepts, check_distinct, threshold_of_pairs
    from pocketnet_fast.evaluation.verification import (
        consecutive_pairs,
        embed_crops,
        pair_distances,
        unit_length,
    )

    sets = [open_pairs(source) for source in sources]
    same = np.concatenate([pairs.same for pairs in sets])
    allowed_false_accepts(int(np.count_nonzero(~same)), far)

    def choose(embedder: Embedder) -> Threshold:
        cosines, units = [], []
        with progress(2 * len(same), "embedding") as advance:
            for pairs in sets:
                rows = embed_crops(embedder, pairs.crops(advance), batch_size=embedder.batch_size)
                units.append(unit_length(rows))
                distance = pair_distances(units[-1], consecutive_pairs(len(pairs)))
                cosines.append(1 - distance / 2)
        check_distinct(np.concatenate(units))
        return threshold_of_pairs(np.concatenate(cosines), same, far)

    return choose


def _all_pairs(source: Path, far: float) -> Callable[[Embedder], Threshold]:
    from pocketnet_fast.data.dataset import open_dataset
    from pocketnet_fast.evaluation.thresholds import (
        allowed_false_accepts,
        check_distinct,
        count_pairs,
        threshold_of_all_pairs,
    )
    from pocketnet_fast.evaluation.verification import embed_crops, unit_length

    dataset = open_dataset(source)
    allowed_false_accepts(count_pairs(dataset.labels)[1], far)

    def choose(embedder: Embedder) -> Threshold:
        with progress(len(dataset), "embedding") as advance:

            def crops() -> Iterator[ImageArray]:
                for index in range(len(dataset)):
                    yield dataset.image(index)
                    advance()

            rows = unit_length(embed_crops(embedder, crops(), batch_size=embedder.batch_size))
        check_distinct(rows)
        return threshold_of_all_pairs(rows.astype("float32"), dataset.labels, far)

    return choose
