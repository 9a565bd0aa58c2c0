"""``pocketnet eval``: the published verification protocol on any data set, by any engine."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import typer

from pocketnet_fast.cli.loading import (
    EngineOption,
    JsonOption,
    ModelOption,
    ThreadsOption,
    UntrainedOption,
    WeightsOption,
    load_embedder,
    note,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.strict_json import to_json

if TYPE_CHECKING:
    from pocketnet_fast.evaluation.pair_scores import PairScores
    from pocketnet_fast.evaluation.pairs import VerificationPairs
    from pocketnet_fast.evaluation.verification import Flags, Floats

_FARS: Final = (1e-1, 1e-2, 1e-3, 1e-4)
_JSON_NAME: Final = "eval.json"


def evaluate(
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="DATA", help="More data sets, as with --data.")
    ] = None,
    *,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Verification pairs: .bin, .npz or a folder with pairs.csv. Takes several."),
    ] = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    untrained: UntrainedOption = False,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per call.")] = 16,
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
        from pocketnet_fast.pictures import require_matplotlib

        require_matplotlib()

    with contextlib.ExitStack() as stack:
        sets = _open_all(sources, folds)
        # Opened first, so that a place that cannot be written is known before the work is done.
        stream = stack.enter_context(_json_file(output)) if output is not None else None
        embedder = load_embedder(
            model, weights, untrained, engine=engine, flip=False, threads=threads, batch=batch
        )
        report: dict[str, Any] = {
            "model": embedder.model_name,
            "weights": str(weights or "") or None,
            "weights_sha256": embedder.weights_sha256,
            "untrained": untrained,
            "engine": embedder.engine,
            "folds": folds,
            "results": {},
        }
        with progress(sum(2 * len(pairs) for pairs in sets.values()), "embedding") as advance:
            from pocketnet_fast.evaluation.pair_scores import score_pairs

            for name, pairs in sets.items():
                start = time.perf_counter()
                scores = score_pairs(embedder, pairs, batch_size=batch, on_image=advance)
                seconds = time.perf_counter() - start
                result = _judged(embedder.model_name, name, scores, folds)
                result |= {"source": pairs.name, "seconds": seconds}
                report["results"][name] = result
                if output is not None:
                    _draw(output, name, f"{embedder.model_name} on {name}", scores, result)
        if stream is not None:
            stream.write((to_json(report, indent=2) + "\n").encode())
    if as_json:
        print_json(report)
    else:
        _show(report)
    if output is not None:
        note(f"wrote {_JSON_NAME} and plots to {output}")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("eval")(evaluate)


def _open_all(sources: list[Path], folds: int) -> dict[str, VerificationPairs]:
    """The data sets by their files' stems; what cannot be used is an error before anything is embedded."""
    from pocketnet_fast.evaluation.pairs import open_pairs
    from pocketnet_fast.evaluation.verification import fold_ranges

    sets: dict[str, VerificationPairs] = {}
    for source in sources:
        name = source.resolve().stem
        if name in sets:
            raise PocketNetError(f"{source}: another data set is called {name} too")
        sets[name] = open_pairs(source)
        try:
            fold_ranges(len(sets[name]), folds)
        except PocketNetError as error:
            advice = "; set --folds" if len(sets[name]) > 1 else ""
            raise PocketNetError(f"{source}: {error}{advice}") from None
    return sets


def _json_file(folder: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    from pocketnet_fast.files import atomic_write

    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise PocketNetError(f"cannot make the folder {folder}: {error.strerror}") from None
    return atomic_write(folder / _JSON_NAME)


def _judged(model: str, name: str, scores: PairScores, folds: int) -> dict[str, Any]:
    from pocketnet_fast.evaluation.paper_figures import paper_accuracy

    same_pairs = int(scores.same.sum())
    paper = paper_accuracy(model, name)
    return {
        "pairs": len(scores.same),
        "same_pairs": same_pairs,
        **_measured(scores.distance, scores, scores.xnorm, folds),
        "without_flip": _measured(scores.straight_distance, scores, scores.straight_xnorm, folds),
        "paper_accuracy": None if paper is None else paper / 100,
    }


def _measured(distance: Floats, scores: PairScores, xnorm: float, folds: int) -> dict[str, Any]:
    from pocketnet_fast.evaluation.verification import judge

    result = judge(distance, scores.same, folds=folds, xnorm=xnorm)
    return {
        "accuracy": result.accuracy,
        "accuracy_std": result.accuracy_std,
        "threshold": result.threshold,
        "cosine_threshold": 1 - result.threshold / 2,
        "val": result.val,
        "val_std": result.val_std,
        "far": result.far,
        "xnorm": result.xnorm,
        "tar_at_far": _tar_at_far(1 - distance / 2, scores.same),
    }


def _tar_at_far(cosine: Floats, same: Flags) -> list[dict[str, Any]] | None:
    """By counting over all pairs; None without pairs of one person or without pairs of two."""
    import numpy as np

    from pocketnet_fast.evaluation.rates import operating_point

    if same.all() or not same.any():
        return None
    score = cosine.astype(np.float32)
    impostors = np.sort(score[~same])[::-1]
    points = (operating_point(score[same], impostors, len(impostors), far) for far in _FARS)
    return [point.as_dict() for point in points]


def _draw(output: Path, name: str, title: str, scores: PairScores, result: dict[str, Any]) -> None:
    from pocketnet_fast.evaluation.error_rates import roc
    from pocketnet_fast.evaluation.plots import draw_roc, draw_scores
    from pocketnet_fast.files import atomic_write

    cosine = 1 - scores.distance / 2
    curves = {
        "with mirror images": roc(cosine, scores.same),
        "images alone": roc(1 - scores.straight_distance / 2, scores.same),
    }
    with atomic_write(output / f"{name}_roc.png") as stream:
        draw_roc(stream, title, curves, int((~scores.same).sum()))
    with atomic_write(output / f"{name}_scores.png") as stream:
        draw_scores(stream, title, cosine, scores.same, result["cosine_threshold"])


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
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
    Console(width=None if sys.stdout.isatty() else 160).print(table)
