import json
import subprocess
import sys
import zipfile

import pytest
import torch
from helpers import randomize_
from typer.testing import CliRunner

import pocketnet_fast
from pocketnet_fast.cli.main import app
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.source import METADATA_FILE
from pocketnet_fast.export.torchscript_file import read_metadata
from pocketnet_fast.models.genotypes import SOFTMAX_CIFAR10, format_genotype
from pocketnet_fast.models.weights import save_weights, weights_sha256

runner = CliRunner()


def run(*arguments):
    result = runner.invoke(app, ["info", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.slow
def test_the_table_shows_the_published_figures():
    lines = run().splitlines()
    for name, *figures in (
        ("pocketnet_s128", "128", "925,632", "283.54", "587.11"),
        ("pocketnet_s256", "256", "991,424", "283.61", "587.24"),
        ("pocketnet_m128", "128", "1,686,656", "538.22", "1,099.02"),
        ("pocketnet_m256", "256", "1,752,448", "538.28", "1,099.15"),
    ):
        (line,) = [line for line in lines if name in line]
        assert [cell.strip() for cell in line.strip("│ ").split("│")] == [name, *figures]


@pytest.mark.slow
def test_json_lists_every_model():
    models = json.loads(run("--json"))
    assert list(models) == pocketnet_fast.list_models()
    assert models["pocketnet_s128"] == {
        "embedding_dim": 128,
        "parameters": 925_632,
        "macs": 283_541_120,
        "flops": 587_110_016,
        "paper_mflops": 587.11,
    }


def test_one_model_is_broken_down():
    out = run("pocketnet_s128")
    assert "weights: pretrained pocketnet_s128, SHA-256 " in out
    assert "threshold: cosine " in out
    for text in (" for FAR 1e-4, of embeddings with flip", "1e-4 (default)", "1e-3", "1e-5", "TAR, %"):
        assert text in out
    assert "intervals of 95 %" in out
    assert "weights: none; no trained weights ship for it" in run("pocketnet_s256")
    for part in ("pre-processing", "dw_conv_5x5", "max_pool_3x3", "depthwise 7x7", "conv 1x1", "total"):
        assert part in out


def test_any_genotype_is_described():
    text = format_genotype(SOFTMAX_CIFAR10)
    options = ("--channels", "16", "--layers", "18", "--embedding-dim", "64", "--json")
    result = json.loads(run("pocketnet", "--genotype", text, *options))
    assert result["genotype"] == text
    assert result["embedding_dim"] == 64
    assert result["weights"] == {"source": None, "sha256": None}
    assert result == json.loads(run("pocketnet", "--genotype", "softmax_cifar10", *options))
    assert sum(part["macs"] for part in result["by_operation"].values()) == result["macs"]


def test_a_weight_file_is_checked_and_hashed(tmp_path):
    path = tmp_path / "a.safetensors"
    model = randomize_(pocketnet_fast.create_model("pocketnet_s128"), seed=2)
    save_weights(model, path)
    result = json.loads(run("pocketnet_s128", "--weights", str(path), "--json"))
    assert result["weights"] == {"source": str(path), "sha256": weights_sha256(model)}
    with pytest.raises(PocketNetError, match="holds pocketnet_s128, not pocketnet_m128"):
        run("pocketnet_m128", "--weights", str(path))


def test_the_plan_is_printed():
    pytest.importorskip("pocketnet_fast.lowering", exc_type=ImportError)
    from pocketnet_fast.lowering import lower

    torch.manual_seed(0)
    table = str(lower(pocketnet_fast.create_model("pocketnet_m128").eval()))
    assert run("pocketnet_m128", "--plan").endswith(table + "\n")
    rows = json.loads(run("pocketnet_m128", "--plan", "--json"))["plan"]
    assert rows[0]["step"] == "stem"
    assert all(row["step"] in table for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pocketnet_s12"], "did you mean pocketnet_s128"),
        (["--plan"], "--plan needs a model"),
        (["--weights", "a.pth", "--channels", "3"], "--channels needs a model"),
        (["pocketnet_s128", "--weights", "absent.pth"], "absent.pth: no such weight file"),
        (["pocketnet_s128", "--layers", "4"], "has layers fixed"),
        (["pocketnet", "--genotype", "Genotype(x=1)"], "missing normal"),
        (["iresnet18", "--plan"], "no fused form"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(PocketNetError, match=message):
        run(*arguments)


def test_help_has_an_example():
    assert "pocketnet info pocketnet_s128 --plan" in " ".join(run("--help").split())


def test_bad_input_exits_with_2_and_one_line():
    command = [sys.executable, "-m", "pocketnet_fast.cli.main", "info", "nonsense"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("pocketnet: unknown model 'nonsense'")
    assert result.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "s128.pt"
    model = pocketnet_fast.create_model("pocketnet_s128", pretrained=True)
    pocketnet_fast.export_torchscript(model, path, kernels="aten")
    return path


class TestExported:
    """What files say of themselves, which are not run."""

    def test_in_words(self, exported):
        out = run("--weights", exported)
        assert out.startswith("file: pocketnet_fast.torchscript, by version ")
        for text in (
            "model: pocketnet_s128, embedding of 128\n",
            "input: float32 N x 3 x 112 x 112, RGB, (x/255 - mean)/std with mean [0.5, 0.5, 0.5]",
            "kernels: aten, fp32; needs ",
            "weights: pretrained pocketnet_s128, SHA-256 ",
            "threshold: cosine ",
            "1e-4 (default)",
        ):
            assert text in out

    def test_in_json(self, exported):
        about = json.loads(run("--weights", exported, "--json"))
        assert about == read_metadata(exported)

    def test_what_it_does_not_hold(self, exported):
        for arguments in (["--plan"], ["pocketnet_m128"], ["--layers", "9"]):
            with pytest.raises(PocketNetError, match="is an exported file; what it holds is printed without"):
                runner.invoke(app, ["info", "--weights", str(exported), *arguments], catch_exceptions=False)

    def test_metadata_of_nothing(self, tmp_path):
        path = tmp_path / "a.pt"
        for about in ({}, {"input": 5}, {"input": {"shape": 7}}):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(f"a/extra/{METADATA_FILE}", json.dumps(about))
            with pytest.raises(PocketNetError, match="damaged: its metadata do not describe a network"):
                runner.invoke(app, ["info", "--weights", str(path)], catch_exceptions=False)
