"""Training a cell in Triton; ``triton_operations`` prepares the arguments and runs the kernels.

A module is a stage. Kernels of the forward pass run in the backward pass, too, where products are computed
again (BACKWARD).

The equations are those of ``csrc/kernels/cell/cell.h``: a sum adds normalised operations, ``scale * z +
shift`` with the moments of the batch, and from the sum's gradient ``g`` the gradient of an operation's
products ``z`` is, per channel,

    dz = by_gradient * g + by_product * (z - centre) + constant

A state, a gradient and products are ``[pixels][channels]`` without gaps, the pixels of all images one after
another. ``pixels`` counts those of what a kernel writes. All are float32, but for what a matrix product takes
(``filtered`` and its gradient), which has the type of the products; sums within a tile are float32 in any
case. A program goes through a run of tiles, and what it sums over them leaves it once, as its row of a table
of partial sums; no two programs write the same element, and tables are added up in a fixed order. So equal
inputs give equal bits on equal devices.

Moments are taken about the tile's own mean and combined in float64 (Chan, Golub and LeVeque, 1979): nothing
cancels where a mean is far from zero. The derivative of prelu is the slope where ``x`` is not positive; that
of a maximum belongs to the first pixel that has it.
"""

from pocketnet_fast.ops.cell.triton_kernels.mixed_forward import cell_mixed_forward
from pocketnet_fast.ops.cell.triton_kernels.products_forward import cell_products_forward, cell_window_forward
from pocketnet_fast.ops.cell.triton_kernels.states_backward import (
    cell_depthwise_backward,
    cell_window_backward,
)
from pocketnet_fast.ops.cell.triton_kernels.sums_forward import cell_moments_forward, cell_sum_forward
from pocketnet_fast.ops.cell.triton_kernels.weights_backward import (
    cell_factors_backward,
    cell_filtered_backward,
    cell_pointwise_backward,
)

__all__ = [
    "cell_depthwise_backward",
    "cell_factors_backward",
    "cell_filtered_backward",
    "cell_mixed_forward",
    "cell_moments_forward",
    "cell_pointwise_backward",
    "cell_products_forward",
    "cell_sum_forward",
    "cell_window_backward",
    "cell_window_forward",
]
