"""Losses for training: margin softmax with distillation, its heads, and its form for many processes."""

from pocketnet_fast.losses.heads import ArcFace as ArcFace
from pocketnet_fast.losses.heads import CombinedMargin as CombinedMargin
from pocketnet_fast.losses.heads import CosFace as CosFace
from pocketnet_fast.losses.margin_cross_entropy import distillation_loss as distillation_loss
from pocketnet_fast.losses.margin_cross_entropy import margin_cross_entropy as margin_cross_entropy
from pocketnet_fast.losses.partial_fc import sample_classes as sample_classes
from pocketnet_fast.losses.sharded import ShardedMargin as ShardedMargin
from pocketnet_fast.losses.sharded import shard_range as shard_range
