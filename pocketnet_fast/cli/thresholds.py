"""The threshold that a command decides by, and how commands show those that weights carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from pocketnet_fast.cli.output import wide_console
from pocketnet_fast.cli.remarks import note
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.models.calibration import Calibration


@dataclass(frozen=True)
class Decision:
    """From which cosine two faces count as one person, and why.

    Attributes:
        threshold: The cosine.
        source: "option", "calibration", or "default": the command's own, where there is neither.
        far: The false accept rate that it is for, where it is calibrated.
        far_source: "option" if it was asked for, "calibration" if it is the weights' default, else None.
    """

    threshold: float
    source: str
    far: float | None = None
    far_source: str | None = None

    @property
    def of_far(self) -> str:
        """What to write after the threshold: " for FAR 1e-4", or nothing."""
        from pocketnet_fast.models.calibration import far_text

        return "" if self.far is None else f" for FAR {far_text(self.far)}"


def decision_fields(decided: Decision | None) -> dict[str, Any]:
    """What decides, as commands print it in JSON; all None if nothing does."""
    return {
        "threshold": decided and decided.threshold,
        "threshold_source": decided and decided.source,
        "far": decided and decided.far,
        "far_source": decided and decided.far_source,
    }


def check_far(far: float | None) -> None:
    """Refuse a false accept rate that is none.

    Raises:
        PocketNetError: Saying so.
    """
    if far is not None and not 0 < far < 1:
        raise PocketNetError(f"--far is {far:g}; expected a rate above 0 and below 1")


def check_options(threshold: float | None, far: float | None) -> None:
    """Refuse ``--threshold`` together with ``--far``, and a rate that is none.

    Raises:
        PocketNetError: Saying so.
    """
    if threshold is not None and far is not None:
        raise PocketNetError("--threshold and --far exclude each other")
    check_far(far)


def decide(
    calibration: Calibration | None, flip: bool, threshold: float | None, far: float | None
) -> Decision | None:
    """Choose what decides: ``--threshold``, or the calibrated threshold for ``--far`` or of the default.

    Both options are what ``check_options`` lets pass. None if there is no threshold.

    Args:
        calibration: The calibration of the weights, if they carry one.
        flip: Whether the embeddings of the mirror images are added; a remark is made where they were not when
            the weights were calibrated, or the other way round.
        threshold: The option.
        far: The option.

    Raises:
        PocketNetError: ``far`` was not calibrated.
    """
    if threshold is not None:
        return Decision(threshold, "option")
    if calibration is None:
        if far is not None:
            raise uncalibrated(far)
        return None
    point = calibration.at(far)
    if calibration.flip != flip:
        note(f"the threshold was calibrated with {'--flip' if calibration.flip else '--no-flip'}")
    return Decision(point.threshold, "calibration", point.far, "calibration" if far is None else "option")


def uncalibrated(far: float) -> PocketNetError:
    """The error of weights that carry no threshold where one for a false accept rate is asked for."""
    from pocketnet_fast.models.calibration import far_text

    return PocketNetError(
        f"--far {far_text(far)}: these weights carry no calibrated threshold; `pocketnet calibrate --far "
        f"{far_text(far)}` writes one into them"
    )


def show_calibration(calibration: Calibration) -> None:
    """Print the default threshold, and a table of all with what they do on each data set."""
    from rich.markup import escape
    from rich.table import Table

    from pocketnet_fast.models.calibration import far_text

    typer.echo(f"threshold: {calibration}")
    caption = "all pairs of different people" if calibration.all_pairs else "the pairs that the data list"
    if any(rates.far_low is not None for point in calibration.points for rates in point.measured):
        caption += "; intervals of 95 %, by a bootstrap over people"
    table = Table("FAR", "cosine", "data", caption=caption)
    for column in ("impostor pairs", "accepted", "FAR measured", "genuine pairs", "TAR, %"):
        table.add_column(column, justify="right")
    for point in calibration.points:
        for number, rates in enumerate(point.measured):
            default = " (default)" if point.far == calibration.default_far else ""
            table.add_row(
                far_text(point.far) + default if number == 0 else "",
                f"{point.threshold:.4f}" if number == 0 else "",
                escape(rates.dataset),
                f"{rates.impostor_pairs:,}",
                f"{rates.false_accepts:,}",
                _with_interval(rates.far, rates.far_low, rates.far_high, _short),
                f"{rates.genuine_pairs:,}",
                _with_interval(rates.tar, rates.tar_low, rates.tar_high, lambda rate: f"{100 * rate:.2f}"),
            )
        table.add_section()
    wide_console().print(table)


def _short(rate: float) -> str:
    from pocketnet_fast.models.calibration import far_text

    return far_text(float(f"{rate:.2g}"))


def _with_interval(
    rate: float | None, low: float | None, high: float | None, text: Callable[[float], str]
) -> str:
    if rate is None:
        return "-"
    return text(rate) + ("" if low is None or high is None else f" ({text(low)} to {text(high)})")
