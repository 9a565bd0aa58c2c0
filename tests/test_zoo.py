import hashlib

import pytest
import torch
from calibrations import calibration_of
from helpers import randomize_, relative_error
from recordings import load_shared

import pocketnet_fast
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models import registry
from pocketnet_fast.models.base import InputSpec
from pocketnet_fast.models.genotypes import SOFTMAX_CIFAR10, format_genotype
from pocketnet_fast.models.iresnet import IResNet
from pocketnet_fast.models.shipped import ShippedFile
from pocketnet_fast.models.weights import load_weights, save_calibrated, save_weights, weights_sha256

NAMES = [
    *("pocketnet_s128", "pocketnet_s256", "pocketnet_m128", "pocketnet_m256"),
    *("iresnet18", "iresnet34", "iresnet50", "iresnet100"),
    *("mobilefacenet", "mobilefacenet_mbf"),
]


def on_meta(name, **options):
    with torch.device("meta"):
        return pocketnet_fast.create_model(name, **options)


def test_list_models():
    assert pocketnet_fast.list_models() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_model_maps_crops_to_embeddings(name):
    model = on_meta(name).eval()
    assert model(torch.empty(2, 3, 112, 112, device="meta")).shape == (2, model.embedding_dim)
    assert model.model_name == name
    assert model.weights_source is None


@pytest.mark.parametrize("name", ["pocketnet_s128", "iresnet18", "mobilefacenet", "mobilefacenet_mbf"])
def test_embedding_dim_can_be_changed(name):
    model = on_meta(name, embedding_dim=64).eval()
    assert model.embedding_dim == 64
    assert model(torch.empty(2, 3, 112, 112, device="meta")).shape == (2, 64)


@pytest.mark.parametrize(
    ("name", "blocks", "parameters"),
    [
        ("iresnet18", [2, 2, 2, 2], 24_025_600),
        ("iresnet34", [3, 4, 6, 3], 34_139_328),
        ("iresnet50", [3, 4, 14, 3], 43_590_848),
        ("iresnet100", [3, 13, 30, 3], 65_156_160),
    ],
)
def test_iresnet_has_the_keys_of_arcface_torch(name, blocks, parameters):
    model = on_meta(name)
    batch_norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    keys = {"conv1.weight", "prelu.weight", "fc.weight", "fc.bias"}
    keys |= {f"{layer}.{leaf}" for layer in ("bn1", "bn2", "features") for leaf in batch_norm}
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            at = f"layer{stage}.{block}"
            keys |= {f"{at}.conv1.weight", f"{at}.conv2.weight", f"{at}.prelu.weight"}
            keys |= {f"{at}.{layer}.{leaf}" for layer in ("bn1", "bn2", "bn3") for leaf in batch_norm}
        keys.add(f"layer{stage}.0.downsample.0.weight")
        keys |= {f"layer{stage}.0.downsample.1.{leaf}" for leaf in batch_norm}
    assert set(model.state_dict()) == keys
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_iresnet_halves_four_times_in_the_second_convolution():
    model = on_meta("iresnet18")
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        assert [block.conv1.stride for block in stage] == [(1, 1), (1, 1)]
        assert [block.conv2.stride for block in stage] == [(2, 2), (1, 1)]
    assert not model.features.weight.requires_grad


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_iresnet_runs_and_scripts():
    model = randomize_(IResNet((1, 1, 1, 1), 32), seed=3)
    x = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        out = model(x)
        torch.testing.assert_close(torch.jit.script(model)(x), out, rtol=1e-4, atol=1e-4)
        assert model(x[:0]).shape == (0, 32)
    assert (out[0] - out[1]).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["mobilefacenet", "mobilefacenet_mbf"])
def test_mobilefacenet_scripts_and_takes_an_empty_batch(name):
    model = randomize_(pocketnet_fast.create_model(name), seed=4)
    x = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        assert relative_error(torch.jit.script(model)(x), model(x)) < 1e-5
        assert model(x[:0]).shape == (0, model.embedding_dim)


def test_trained_mobilefacenet_tells_faces_apart(shared_dir):
    path = shared_dir / "models" / "mobilefacenet_ms1m.safetensors"
    model = pocketnet_fast.create_model("mobilefacenet", weights=path).eval()
    assert model.weights_source == str(path)
    pixels = load_shared("pocketnet_s128").tensors["input_rgb_u8"]
    x = model.input_spec.normalize(pixels)
    with torch.no_grad():
        straight = torch.nn.functional.normalize(model(x))
        mirrored = torch.nn.functional.normalize(model(x.flip(3)))
    similarity = straight @ mirrored.T
    same = similarity.diagonal()
    different = similarity - torch.diag(torch.full((len(x),), 2.0))
    assert same.min() > 0.7
    assert (same > different.max(1).values + 0.2).all()


def test_models_carry_their_own_normalisation():
    assert on_meta("mobilefacenet").input_spec.mean == (0.485, 0.456, 0.406)
    assert on_meta("iresnet18").input_spec == on_meta("pocketnet_s128").input_spec == InputSpec()


def test_normalisation_is_the_documented_formula():
    spec = InputSpec(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels = torch.randint(0, 256, (2, 112, 112, 3), dtype=torch.uint8)
    x = spec.normalize(pixels)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    red, green, blue = (int(v) for v in pixels[1, 5, 7])
    expected = [(red / 255 - 0.1) / 0.5, (green / 255 - 0.2) / 0.6, (blue / 255 - 0.3) / 0.7]
    torch.testing.assert_close(x[1, :, 5, 7], torch.tensor(expected))
    assert torch.equal(spec.normalize(pixels.flip(-1), color="bgr"), x)


@pytest.mark.parametrize(
    ("pixels", "color", "message"),
    [
        (torch.zeros(1, 112, 112, 3), "rgb", "torch.float32"),
        (torch.zeros(1, 3, 112, 112, dtype=torch.uint8), "rgb", r"\(1, 3, 112, 112\)"),
        (torch.zeros(112, 112, 3, dtype=torch.uint8), "rgb", r"\(112, 112, 3\)"),
        (torch.zeros(1, 112, 112, 3, dtype=torch.uint8), "gbr", "'gbr'"),
    ],
)
def test_normalisation_refuses_other_images(pixels, color, message):
    with pytest.raises(PocketNetError, match=message):
        InputSpec().normalize(pixels, color=color)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 3, 112, 96), r"\(1, 3, 112, 96\); expected \(N, 3, 112, 112\)"),
        (torch.zeros(3, 112, 112), r"\(3, 112, 112\)"),
        (torch.zeros(1, 3, 112, 112, dtype=torch.uint8), "torch.uint8"),
    ],
)
def test_check_names_what_is_wrong_with_an_input(x, message):
    InputSpec().check(torch.zeros(0, 3, 112, 112))
    with pytest.raises(PocketNetError, match=message):
        InputSpec().check(x)


def test_pocketnet_takes_any_genotype():
    by_object = on_meta("pocketnet", genotype=SOFTMAX_CIFAR10, channels=8, layers=9, embedding_dim=32)
    by_text = on_meta(
        "pocketnet", genotype=format_genotype(SOFTMAX_CIFAR10), channels=8, layers=9, embedding_dim=32
    )
    by_name = on_meta("pocketnet", genotype="softmax_cifar10", channels=8, layers=9, embedding_dim=32)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (by_object, by_text, by_name)]
    assert shapes[0] == shapes[1] == shapes[2]
    assert (by_text.genotype, by_text.channels, by_text.layers) == (SOFTMAX_CIFAR10, 8, 9)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pocketnet_s12", {}, "did you mean pocketnet_s128"),
        ("resnet50", {}, "did you mean iresnet50"),
        ("x", {}, "expected one of pocketnet, pocketnet_s128"),
        (
            "pocketnet_s128",
            {"channels": 16, "layers": 18},
            "channels, layers fixed; the model 'pocketnet'",
        ),
        ("iresnet18", {"genotype": "softmax_casia"}, "has genotype fixed"),
        ("pocketnet", {"genotype": "softmax"}, "not of the form"),
        ("pocketnet", {"channels": 0}, "channels is 0"),
        ("iresnet18", {"embedding_dim": 0}, "embedding_dim is 0"),
        ("pocketnet_s128", {"pretrained": True, "weights": "a.pth"}, "choose one"),
        ("pocketnet_x", {"pretrained": True}, "no pretrained weights"),
    ],
)
def test_create_model_refuses(name, options, message):
    with pytest.raises(PocketNetError, match=message):
        pocketnet_fast.create_model(name, **options)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(registry.PRETRAINED)))
def test_pretrained_is_refused_while_no_weights_ship(name):
    with pytest.raises(PocketNetError, match=f"no pretrained weights ship for '{name}'"):
        pocketnet_fast.create_model(name, pretrained=True)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A weight file registered as if it shipped with the package."""
    source = randomize_(pocketnet_fast.create_model("pocketnet_s128"), seed=5)
    path = tmp_path / "s128.safetensors"
    save_weights(source, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = ShippedFile(path=str(path), sha256=digest, embedding_dim=128)
    monkeypatch.setitem(registry.PRETRAINED, "pocketnet_s128", entry)
    return source, path


def test_registered_weights_are_loaded(shipped):
    source, _ = shipped
    model = pocketnet_fast.create_model("pocketnet_s128", pretrained=True)
    assert weights_sha256(model) == weights_sha256(source)
    assert model.weights_source == "pretrained pocketnet_s128"
    with pytest.raises(PocketNetError, match="embedding_dim 128, not 256"):
        pocketnet_fast.create_model("pocketnet_s128", pretrained=True, embedding_dim=256)


def test_registered_weights_in_half_precision_with_a_threshold(shipped, monkeypatch):
    source, path = shipped
    save_weights(source, path, half=True)
    half = load_weights(pocketnet_fast.create_model("pocketnet_s128"), path)
    calibration = calibration_of(weights_sha256(half), {1e-3: 0.3, 1e-4: 0.4})
    save_calibrated(path, path, half, calibration)
    with pytest.raises(PocketNetError, match="SHA-256"):
        pocketnet_fast.create_model("pocketnet_s128", pretrained=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = ShippedFile(path=str(path), sha256=digest, embedding_dim=128)
    monkeypatch.setitem(registry.PRETRAINED, "pocketnet_s128", entry)
    model = pocketnet_fast.create_model("pocketnet_s128", pretrained=True)
    assert model.calibration == calibration
    assert weights_sha256(model) == weights_sha256(half)
    assert path.stat().st_size < 2.2e6


def test_registered_weights_are_verified(shipped):
    _, path = shipped
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(PocketNetError, match="SHA-256"):
        pocketnet_fast.create_model("pocketnet_s128", pretrained=True)
    path.unlink()
    with pytest.raises(PocketNetError, match="missing from the installation"):
        pocketnet_fast.create_model("pocketnet_s128", pretrained=True)
