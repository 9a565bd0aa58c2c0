"""``pocketnet eval``: the published verification protocol on any data set, by any engine."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import typer

from pocketnet_fast.cli.loading import new_set_name
from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import CropBatchOption, CropOptions, JsonOption
from pocketnet_fast.cli.output import print_report, wide_console, write_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.cli.remarks import note
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write, make_folder
from pocketnet_fast.pictures import require_matplotlib

if TYPE_CHECKING:
    from pocketnet_fast.evaluation.pairs import VerificationPairs

_JSON_NAME: Final = "eval.json"


@dataclass(frozen=True)
class _CropOptions(CropOptions):
    batch: CropBatchOption = 16


@grouped
def evaluate(
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="DATA", help="More data sets, as with --data.")
    ] = None,
    *,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Verification pairs: .bin, .npz or a folder with pairs.csv. Takes several."),
    ] = None,
    crops: _CropOptions,
    folds: Annotated[
        int, typer.Option(help="Contiguous parts; each is judged by the others' threshold.")
    ] = 10,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=f"Folder for {_JSON_NAME}, ROC and score plots; made if absent."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure verification accuracy by the published protocol, with and without mirror images.

    Embeddings of image and mirror image are added and normalised; the threshold on the squared distance (0 to
    4 by 0.01, the first best) is chosen on all folds but one and applied to that one. VAL is the true accept
    rate where the false accept rate of the other folds is 1e-3; XNorm the mean length of the embeddings. JSON
    adds TAR at FAR 1e-1 to 1e-4 over all pairs. The paper's accuracy stands beside where it is known.

    Example: [bold]pocketnet eval --data lfw.bin cfp_fp.bin -o results[/bold]
    """
    sources = [*(data or []), *(more or [])]
    if not sources:
        raise PocketNetError("no data; pass --data FILE, a .bin or .npz file or a folder with pairs.csv")
    if output is not None:
        require_matplotlib()
    with contextlib.ExitStack() as stack:
        sets = _open_all(sources, folds)
        # Opened first, so that a place that cannot be written is known before the work is done.
        stream = stack.enter_context(_json_file(output)) if output is not None else None
        report = _evaluated(crops, sets, folds, output)
        if stream is not None:
            write_json(stream, report)
    print_report(report, _print, as_json)
    if output is not None:
        note(f"wrote {_JSON_NAME} and plots to {output}")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("eval")(evaluate)


def _open_all(sources: list[Path], folds: int) -> dict[str, VerificationPairs]:
    """The data sets by their files' stems; what cannot be used is an error before anything is embedded."""
    from pocketnet_fast.evaluation.pair_files import open_pairs
    from pocketnet_fast.evaluation.verification import fold_ranges

    sets: dict[str, VerificationPairs] = {}
    for source in sources:
        name = new_set_name(source, sets)
        sets[name] = open_pairs(source)
        try:
            fold_ranges(len(sets[name]), folds)
        except PocketNetError as error:
            advice = "; set --folds" if len(sets[name]) > 1 else ""
            raise PocketNetError(f"{source}: {error}{advice}") from None
    return sets


def _evaluated(
    crops: _CropOptions, sets: dict[str, VerificationPairs], folds: int, output: Path | None
) -> dict[str, Any]:
    """Embed all data sets, judge them, and draw them where that is asked for."""
    from pocketnet_fast.evaluation.pair_scores import score_pairs
    from pocketnet_fast.evaluation.report import draw_report, verification_report

    embedder = crops.embedder(flip=False)
    results = {}
    with progress(sum(2 * len(pairs) for pairs in sets.values()), "embedding") as advance:
        for name, pairs in sets.items():
            start = time.perf_counter()
            scores = score_pairs(embedder, pairs, batch_size=crops.batch, on_image=advance)
            seconds = time.perf_counter() - start
            result = verification_report(embedder.model_name, name, scores, folds)
            results[name] = result | {"source": pairs.name, "seconds": seconds}
            if output is not None:
                draw_report(output, name, f"{embedder.model_name} on {name}", scores, result)
    return {
        "model": embedder.model_name,
        "weights": str(crops.weights or "") or None,
        "weights_sha256": embedder.weights_sha256,
        "untrained": crops.untrained,
        "engine": embedder.engine,
        "folds": folds,
        "results": results,
    }


def _json_file(folder: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    make_folder(folder, parents=False)
    return atomic_write(folder / _JSON_NAME)


def _print(report: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(caption=f"{report['model']}, {report['engine']}, {report['folds']} folds; percent")
    table.add_column("data")
    for column in ("pairs", "accuracy", "paper", "no flip", "distance", "cosine", "VAL", "at FAR", "XNorm"):
        table.add_column(column, justify="right")
    for name, result in report["results"].items():
        paper = result["paper_accuracy"]
        straight = result["without_flip"]
        table.add_row(
            escape(name),
            f"{result['pairs']:,}",
            f"{100 * result['accuracy']:.2f} +- {100 * result['accuracy_std']:.2f}",
            "-" if paper is None else f"{100 * paper:.2f}",
            f"{100 * straight['accuracy']:.2f} +- {100 * straight['accuracy_std']:.2f}",
            f"{result['threshold']:.3f}",
            f"{result['cosine_threshold']:.3f}",
            f"{100 * result['val']:.2f} +- {100 * result['val_std']:.2f}",
            f"{100 * result['far']:.2f}",
            f"{result['xnorm']:.2f}",
        )
    wide_console().print(table)
