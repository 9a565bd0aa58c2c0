"""Starting a pupil's last layers from the teacher's embeddings: a linear regression instead of many steps.

The layers after the global depthwise convolution are linear at evaluation. A pupil that knows faces, but has
another teacher's space of embeddings, is brought to this teacher's by ridge regression of its features.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.training.sampling import sampled_faces
from pocketnet_fast.training.teacher import Teacher

_IMAGES: Final = 4096
_RIDGE: Final = 1e-3


@torch.no_grad()
def fit_embedding(model: EmbeddingModel, teacher: Teacher, dataset: FaceDataset) -> None:
    """Fit the pupil's pointwise convolution after its global depthwise one, and the normalisation after it.

    Args:
        model: The pupil; only those two layers change, and its mode is kept.
        teacher: A teacher of embeddings of the pupil's length.
        dataset: The transfer set, of which up to 4,096 faces are embedded by both.

    Raises:
        PocketNetError: The pupil has no such layers.
    """
    _, norm, pointwise, last = model.tail_layers()
    if not isinstance(pointwise, nn.Conv2d) or not isinstance(last, nn.BatchNorm2d | nn.BatchNorm1d):
        raise PocketNetError(f"{model.model_name} has no pointwise convolution and normalisation at its end")
    device = next(model.parameters()).device
    features: list[Tensor] = []
    targets: list[Tensor] = []
    hook = norm.register_forward_hook(lambda _m, _i, output: features.append(output.flatten(1)))
    training = model.training
    model.eval()
    try:
        for pixels in sampled_faces(dataset, _IMAGES):
            images = pixels.to(device)
            # Convolutions in evaluation mode take a third of the time in this format.
            model(model.input_spec.normalize(images).to(memory_format=torch.channels_last))
            targets.append(teacher(images))
    finally:
        hook.remove()
        model.train(training)
    x = torch.cat(features).double()
    # Of about unit size in each dimension, as other layers' outputs are.
    target = functional.normalize(torch.cat(targets).double()) * model.embedding_dim**0.5
    weight, bias = _ridge(x, target)
    fitted = x @ weight.T
    variance, mean = torch.var_mean(fitted, 0, correction=0)
    pointwise.weight.copy_(weight.view_as(pointwise.weight))
    if pointwise.bias is not None:
        pointwise.bias.zero_()
    assert last.running_mean is not None and last.running_var is not None
    last.running_mean.copy_(mean)
    last.running_var.copy_(variance)
    if last.affine:
        last.weight.copy_((variance + last.eps).sqrt())
        last.bias.copy_(mean + bias)


def _ridge(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Weights D,K and bias D that bring features N,K closest to targets N,D."""
    x_mean, target_mean = x.mean(0), target.mean(0)
    x, target = x - x_mean, target - target_mean
    gram = x.T @ x
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, x.T @ target).T
    return weight, target_mean - weight @ x_mean
