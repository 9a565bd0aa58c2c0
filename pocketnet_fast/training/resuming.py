"""Whether a run may go on with what is asked of it now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.resumable.folder import Progress
from pocketnet_fast.training.recipe import Recipe
from pocketnet_fast.training.toml_recipe import RecipeT, differences

# What changes nothing that is learned, or no more than by rounding. Of data and teacher, the path may change.
_HARMLESS: Final = {
    "data.source",
    "data.workers",
    "distillation.teacher",
    "model.fused",
    "model.weights",
    "run.device",
    "run.keep",
    "run.keep_epochs",
    "run.log_steps",
    "run.max_skipped",
    "run.save_steps",
    "run.tensorboard",
    "run.threads",
}
# Whether they do depends on the images of a step, which are compared apart.
_BATCH: Final = {"data.batch_size", "optimizer.accumulate"}


def check_recipe(saved: Recipe, asked: Recipe, *, force: bool) -> None:
    """Compare the recipe of a run with the one it shall go on with.

    Raises:
        PocketNetError: They differ, naming the differences: always where what is learned would change, and
            without ``force`` for any.
    """
    check_changes(saved, asked, lambda key: _is_harmless(key, saved, asked), force=force)


def check_changes(saved: RecipeT, asked: RecipeT, is_harmless: Callable[[str], bool], *, force: bool) -> None:
    """Compare two recipes, given which of their ``section.key`` do not matter to what is learned.

    Raises:
        PocketNetError: As ``check_recipe``.
    """
    changed = differences(saved, asked)
    if not changed:
        return
    harmful = {key for key in changed if not is_harmless(key)}
    named = [
        f"{key} {old!r} -> {new!r}" for key, (old, new) in changed.items() if key in harmful or not harmful
    ]
    if harmful:
        raise PocketNetError(
            f"the run was started with another recipe: {', '.join(named)}; start a new run"
            + (" (model.weights takes the weights of this one)" if isinstance(saved, Recipe) else "")
        )
    if not force:
        raise PocketNetError(
            f"the run was started with another recipe: {', '.join(named)}; --force takes the new values"
        )


def check_progress(saved: Progress, steps_per_epoch: int, images_per_step: int) -> None:
    """Compare what a run's steps were with what they would be now.

    Raises:
        PocketNetError: A step has another number of images, or an epoch another number of steps.
    """
    if saved.images_per_step != images_per_step:
        raise PocketNetError(
            f"the run's steps have {saved.images_per_step} images over all processes, and would now have "
            f"{images_per_step}; change --batch-size to fit (with --force)"
        )
    if saved.steps_per_epoch != steps_per_epoch:
        raise PocketNetError(
            f"the run's epochs have {saved.steps_per_epoch} steps, and would now have {steps_per_epoch}: "
            "the data has changed"
        )


def _is_harmless(key: str, saved: Recipe, asked: Recipe) -> bool:
    if key == "schedule.epochs":
        # The steps of a schedule lie where they lie, however long it goes on; a cosine is stretched.
        return saved.schedule.kind == asked.schedule.kind == "steps"
    return key in _HARMLESS | _BATCH or key.startswith("verification.")
