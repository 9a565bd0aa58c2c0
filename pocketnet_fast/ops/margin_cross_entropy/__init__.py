"""The operator under the margin softmax loss: ``pocketnet_fast::margin_cross_entropy``."""

from pocketnet_fast.ops.margin_cross_entropy.options import MarginOptions as MarginOptions
