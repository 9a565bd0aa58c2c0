"""Losses for training: margin softmax with distillation, its heads, and its form for many processes."""

from pocketnet_fast.losses.heads import ArcFace as ArcFace
from pocketnet_fast.losses.heads import CombinedMargin as CombinedMargin
from pocketnet_fast.losses.heads import CosFace as CosFace
from pocketnet_fast.losses.margin_cross_entropy import distillation_loss as distillation_loss
from pocketnet_fast.losses.margin_cross_entropy import margin_cross_entropy as margin_cross_entropy
