import pytest
import torch
from helpers import random_genotype

import pocketnet_fast
from pocketnet_fast.models.counting import Count, count_model
from pocketnet_fast.models.iresnet import IResNet
from pocketnet_fast.models.pocketnet import PocketNet


def counted(name, **options):
    with torch.device("meta"):
        return count_model(pocketnet_fast.create_model(name, **options))


@pytest.mark.parametrize(
    ("name", "parameters", "macs", "flops"),
    [
        ("pocketnet_s128", 925_632, "283.54", 587.11),
        ("pocketnet_s256", 991_424, "283.61", 587.24),
        ("pocketnet_m128", 1_686_656, "538.22", 1099.02),
        ("pocketnet_m256", 1_752_448, "538.28", 1099.15),
    ],
)
def test_published_figures(name, parameters, macs, flops):
    total = counted(name).total
    assert total.parameters == parameters
    assert f"{total.macs / 1e6:.2f}" == macs
    assert total.paper_mflops == flops


def test_macs_agree_with_a_count_taken_while_running():
    from torch.utils.flop_counter import FlopCounterMode

    for model in (
        PocketNet(random_genotype(5), channels=4, layers=6, embedding_dim=16),
        pocketnet_fast.create_model("mobilefacenet"),
        IResNet((1, 2, 1, 1), 64),
    ):
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model.eval()(torch.zeros(1, 3, 112, 112))
        assert 2 * count_model(model).total.macs == counter.get_total_flops()


@pytest.mark.parametrize("name", ["pocketnet_s128", "pocketnet_m256", "iresnet18", "mobilefacenet"])
def test_parts_sum_to_the_whole(name):
    result = counted(name)
    for parts in (result.by_operation, result.by_layer):
        total = Count()
        for part in parts.values():
            total.add(part)
        assert total == result.total


def test_operations_of_the_published_genotype():
    by_operation = counted("pocketnet_s128").by_operation
    convolutions = {"dw_conv_1x1", "dw_conv_3x3", "dw_conv_5x5", "dw_conv_7x7"}
    assert set(by_operation) == {
        "stem",
        "pre-processing",
        "skip_connect",
        "max_pool_3x3",
        "tail",
        *convolutions,
    }
    assert by_operation["stem"].macs == 64 * 27 * 56 * 56
    assert by_operation["dw_conv_7x7"].macs == sum(
        c * (c + 49) * size * size for c, size in ((32, 28), (64, 14), (128, 7))
    )
    assert by_operation["tail"].macs == 512 * 512 * 49 + 512 * 49 + 512 * 128
    pools = 3 * (32 * 28**2 + 64 * 14**2 + 128 * 7**2)
    assert by_operation["max_pool_3x3"] == Count(3 * 2 * (32 + 64 + 128), 0, (9 + 2) * pools)


def test_conventions_per_kind_of_layer():
    model = IResNet((1, 1, 1, 1), 8)
    by_layer = count_model(model).by_layer
    assert by_layer["linear"] == Count(8 * 512 * 49 + 8, 8 * 512 * 49, 2 * 8 * 512 * 49 + 8)
    assert by_layer["dropout"] == Count()
    assert by_layer["activation"].flops == 64 * 112**2 + sum(
        c * (size * 2) ** 2 for c, size in ((64, 56), (128, 28), (256, 14), (512, 7))
    )


def test_counting_leaves_the_model_alone():
    model = IResNet((1, 1, 1, 1), 8)
    model.layer1.eval()
    training = [module.training for module in model.modules()]
    count_model(model)
    assert [module.training for module in model.modules()] == training
    assert not any(module._forward_hooks for module in model.modules())
    assert model.bn1.num_batches_tracked == 0
    assert model.conv1.weight.device.type == "cpu"
