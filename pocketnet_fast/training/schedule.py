"""The learning rate over a run."""

from __future__ import annotations

import math

from pocketnet_fast.training.recipe import OptimizerRecipe, ScheduleRecipe


def initial_rate(optimizer: OptimizerRecipe, batch: int) -> float:
    """The recipe's rate for steps of ``batch`` images, scaled linearly (arXiv 1706.02677, sec. 2.1)."""
    return optimizer.lr * batch / optimizer.lr_batch if optimizer.lr_batch else optimizer.lr


def learning_rate(schedule: ScheduleRecipe, initial: float, step: int, steps_per_epoch: int) -> float:
    """The rate of one step.

    During the warm-up it rises linearly and reaches its full value with the warm-up's last step. "steps"
    multiplies by ``factor`` from the start of each milestone epoch (counted from 1) on; "cosine" falls from
    the end of the warm-up as half a cosine to ``final_lr`` times the initial rate after the last step (arXiv
    1608.03983, eq. 5).

    Args:
        schedule: The recipe's section.
        initial: The full rate.
        step: Steps done before this one, since the start of the run.
        steps_per_epoch: Steps of each epoch.
    """
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return initial * (step + 1) / warmup
    if schedule.kind == "steps":
        epoch = step // steps_per_epoch + 1
        return initial * schedule.factor ** sum(epoch >= milestone for milestone in schedule.milestones)
    total = schedule.epochs * steps_per_epoch
    passed = (step - warmup) / max(total - warmup, 1)
    cosine = (1 + math.cos(math.pi * passed)) / 2
    return initial * (schedule.final_lr + (1 - schedule.final_lr) * cosine)
