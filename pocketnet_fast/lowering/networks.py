"""Which networks have a fused form, and lowering any of them."""

from __future__ import annotations

from torch import nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering.builder import check_choices
from pocketnet_fast.lowering.mobilefacenet import lower_mobilefacenet
from pocketnet_fast.lowering.plan import Plan
from pocketnet_fast.lowering.pocketnet import lower_pocketnet
from pocketnet_fast.models.chain import ChainModel
from pocketnet_fast.models.pocketnet import PocketNet


def has_fused_form(model: nn.Module) -> bool:
    """Whether ``lower`` takes a network of this kind."""
    return isinstance(model, PocketNet | ChainModel)


def no_fused_form(model: nn.Module) -> str:
    """What to say of a network that has none."""
    name = getattr(model, "model_name", type(model).__name__)
    return f"{name} has no fused form; PocketNets and MobileFaceNets have"


def lower(model: nn.Module, *, color: str = "rgb", bands: bool = True, precision: str = "fp32") -> Plan:
    """Lower a trained network to a plan.

    Args:
        model: A ``PocketNet`` or a MobileFaceNet, whose batch normalisation is taken as in evaluation. It
            is not changed.
        color: Channel order of uint8 images, ``"rgb"`` or ``"bgr"``.
        bands: Let steps that follow one another work on a few rows at a time, as a cache of the CPU holds;
            without, each step is a group of its own and every state lies in the arena, as on a GPU.
        precision: The precision of the states and of the weights of depthwise and pointwise convolutions,
            ``"fp32"`` or ``"bf16"``; sums are float32 in both.

    Returns:
        The plan, with the weights packed once for every instruction set.

    Raises:
        PocketNetError: The model is another kind of network, or goes beyond what the kernels take.
    """
    check_choices(color, precision)
    bgr = color != getattr(getattr(model, "input_spec", None), "color", color)
    if isinstance(model, PocketNet):
        return lower_pocketnet(model, bgr, bands, precision)
    if isinstance(model, ChainModel):
        return lower_mobilefacenet(model, bgr, bands, precision)
    raise PocketNetError(no_fused_form(model))
