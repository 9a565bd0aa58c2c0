"""``pocketnet embed`` and ``pocketnet verify``: from photos to files and decisions, and every refusal."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, refused, runner
from faces import photo_cosines
from recordings import present

from pocketnet_fast.data.alignment import TEMPLATE, align
from pocketnet_fast.data.images import read_image
from pocketnet_fast.ops import native

cv2 = pytest.importorskip("cv2")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command line in this process, as the console script would."""
    monkeypatch.delenv("POCKETNET_DETECTOR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return runner(monkeypatch, capsys)


def write_image(path: Path, image: np.ndarray) -> Path:
    done, data = cv2.imencode(path.suffix, image[..., ::-1])
    assert done
    path.write_bytes(data.tobytes())
    return path


@pytest.fixture(scope="module")
def astronaut() -> Path:
    return Path(pytest.importorskip("skimage").__file__).parent / "data" / "astronaut.png"


@pytest.fixture
def crops(astronaut: Path, tmp_path: Path) -> list[Path]:
    """Three aligned crops: a face, its mirror image, and something else."""
    landmarks = ((200.1, 101.8), (247.1, 102.6), (220.4, 124.5), (198.6, 142.8), (239.7, 143.6))
    image = read_image(astronaut)
    crop = align(image, landmarks)
    return [
        write_image(tmp_path / "face.png", crop),
        write_image(tmp_path / "mirror.png", crop[:, ::-1]),
        write_image(tmp_path / "other.png", align(image, TEMPLATE * 2 + 250)),
    ]


@pytest.fixture(scope="module")
def trained(trained_mobilefacenet: Path) -> list[object]:
    """Options that choose a trained model."""
    return ["--model", "mobilefacenet", "--weights", trained_mobilefacenet]


@pytest.fixture(scope="module")
def photos(shared_dir: Path) -> Path:
    return present(shared_dir / "data" / "photos")


class TestEmbed:
    def test_npz(self, run: Run, crops: list[Path], tmp_path: Path) -> None:
        output = tmp_path / "out.npz"
        result = run("embed", *crops, "--aligned", "--untrained", "--engine", "eager", "-o", output)
        assert result.code == 0
        assert result.out == ""
        assert "untrained" in result.err
        assert "wrote 3 embeddings of 128 dimensions" in result.err
        with np.load(output, allow_pickle=False) as data:
            assert data["files"].tolist() == [str(path) for path in crops]
            assert data["embeddings"].dtype == np.float32
            assert data["embeddings"].shape == (3, 128)
            np.testing.assert_allclose(np.linalg.norm(data["embeddings"], axis=1), 1, rtol=1e-5)
            assert (data["norms"] > 0).all()
            assert json.loads(str(data["about"]))["untrained"] is True
            assert "boxes" not in data

    def test_csv_and_json_agree_exactly(self, run: Run, crops: list[Path], tmp_path: Path) -> None:
        output = tmp_path / "out.csv"
        result = run("embed", *crops, "--aligned", "--untrained", "-o", output, "--json")
        with output.open(newline="", encoding="utf-8") as stream:
            header, *rows = list(csv.reader(stream))
        assert header[:3] == ["file", "norm", "e0"]
        assert len(header) == 130
        for row, entry in zip(rows, result.json["embeddings"], strict=True):
            assert row[0] == entry["file"]
            np.testing.assert_array_equal(
                np.array(row[2:], np.float32), np.array(entry["embedding"], np.float32)
            )

    def test_a_second_run_gives_the_same(self, run: Run, crops: list[Path]) -> None:
        first, second = (run("embed", *crops, "--aligned", "--untrained", "--json") for _ in range(2))
        assert first.out == second.out

    def test_batches_and_threads_do_not_matter(self, run: Run, crops: list[Path]) -> None:
        command = ["embed", *crops, "--aligned", "--untrained", "--json"]
        whole = run(*command).json["embeddings"]
        parts = run(*command, "--batch", 2, "--threads", 1).json["embeddings"]
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_allclose(one["embedding"], other["embedding"], atol=2e-6)

    def test_flip_makes_mirror_images_equal(self, run: Run, crops: list[Path]) -> None:
        pair = run("embed", *crops[:2], "--aligned", "--untrained", "--json").json["embeddings"]
        np.testing.assert_allclose(pair[0]["embedding"], pair[1]["embedding"], atol=1e-5)
        pair = run("embed", *crops[:2], "--aligned", "--untrained", "--no-flip", "--json").json["embeddings"]
        assert np.abs(np.subtract(pair[0]["embedding"], pair[1]["embedding"])).max() > 1e-4

    @pytest.mark.parametrize("flip", [[], ["--no-flip"]])
    def test_engines_agree(self, run: Run, crops: list[Path], flip: list[str]) -> None:
        try:
            native.library_path()
        except ImportError as error:
            pytest.skip(str(error))
        results = {}
        for engine in ("fused", "eager"):
            result = run(
                "embed", *crops, "--aligned", "--untrained", "--engine", engine, "--json", *flip
            ).json
            assert result["engine"] == engine
            results[engine] = np.array([entry["embedding"] for entry in result["embeddings"]])
        np.testing.assert_allclose(results["fused"], results["eager"], atol=1e-4)

    def test_detected_faces_are_recorded(self, run: Run, astronaut: Path, tmp_path: Path) -> None:
        output = tmp_path / "out.npz"
        assert run("embed", astronaut, "--untrained", "-o", output).code == 0
        with np.load(output) as data:
            assert data["boxes"].shape == (1, 4)
            assert data["landmarks"].shape == (1, 5, 2)
            assert data["counts"].tolist() == [1]
            assert data["scores"][0] > 0.9
            assert 0.2 < data["qualities"][0] < 1

    def test_an_unusable_image_stops_it_or_is_left_out(
        self, run: Run, crops: list[Path], tmp_path: Path
    ) -> None:
        broken = tmp_path / "broken.png"
        broken.write_bytes(crops[0].read_bytes()[:500])
        output = tmp_path / "out.npz"
        output.write_bytes(b"old")
        command = ["embed", crops[0], broken, crops[1], "--aligned", "--untrained", "-o", output]
        assert refused(run(*command), "broken.png is damaged")
        assert output.read_bytes() == b"old"
        result = run(*command, "--skip")
        assert result.code == 0
        assert "left out: " in result.err
        with np.load(output) as data:
            assert data["files"].tolist() == [str(crops[0]), str(crops[1])]
        only_broken = ["embed", broken, "--aligned", "--untrained", "--skip", "--json"]
        assert refused(run(*only_broken), "none of the images")
        assert not list(tmp_path.glob(".*"))

    def test_no_face(self, run: Run, tmp_path: Path) -> None:
        wall = write_image(tmp_path / "wall.png", np.full((200, 200, 3), 150, np.uint8))
        result = run("embed", wall, "--untrained", "--json")
        assert refused(result, "wall.png: no face found")

    def test_refusals(self, run: Run, crops: list[Path], tmp_path: Path) -> None:
        crop, quiet = crops[0], ["--aligned", "--untrained"]
        assert refused(run("embed", crop, *quiet), "nowhere to put")
        assert refused(run("embed", crop, *quiet, "-o", tmp_path / "x.txt"), ".npz, .csv, .parquet")
        assert refused(run("embed", crop, *quiet, "-o", tmp_path / "no" / "x.npz"), "cannot write")
        assert refused(
            run("embed", crop, "--aligned", "--json", "--model", "pocketnet_s256"),
            "no trained weights ship for",
        )
        assert refused(run("embed", crop, *quiet, "--json", "--model", "pocketnet_x"), "unknown model")
        assert refused(run("embed", crop, *quiet, "--json", "--engine", "warp"), "unknown engine")
        assert refused(run("embed", crop, *quiet, "--json", "--detector", crop), "exclude each other")
        assert refused(run("embed", crop, *quiet, "--json", "--weights", crop), "exclude each other")
        (tmp_path / "empty").mkdir()
        assert refused(run("embed", tmp_path / "empty", *quiet, "--json"), "empty holds no image")
        big = write_image(tmp_path / "big.png", np.zeros((224, 224, 3), np.uint8))
        assert refused(run("embed", big, *quiet, "--json"), "224x224", "112x112")

    def test_all_faces(self, run: Run, astronaut: Path, tmp_path: Path) -> None:
        photo = read_image(astronaut)[:260, 90:350]
        pair = write_image(tmp_path / "pair.png", np.concatenate([photo, photo[::2, ::-2].repeat(2, 0)], 1))
        command = ["embed", pair, astronaut, "--json"]
        assert len(run(*command).json["embeddings"]) == 2
        rows = run(*command, "--all-faces").json["embeddings"]
        assert [row["file"] for row in rows] == [str(pair), str(pair), str(astronaut)]
        assert [row["faces"] for row in rows] == [2, 2, 1]
        assert rows[0]["box"] != rows[1]["box"]
        # In batches that a photo's faces overflow, the same.
        again = run(*command, "--all-faces", "--batch", 1).json["embeddings"]
        assert [row["box"] for row in again] == [row["box"] for row in rows]
        assert refused(run(*command, "--all-faces", "--aligned"), "exclude each other")
        wall = write_image(tmp_path / "wall.png", np.full((90, 90, 3), 99, np.uint8))
        assert refused(run("embed", wall, "--all-faces", "--json"), "no face found")

    def test_what_has_no_fused_form_runs_eager(self, run: Run, crops: list[Path]) -> None:
        command = ["embed", crops[0], "--aligned", "--untrained", "--model", "iresnet18", "--json"]
        assert refused(run(*command, "--engine", "fused"), "iresnet18 has no fused form")
        result = run(*command)
        assert result.json["engine"] == "eager"
        assert "running eager PyTorch" in result.err


class TestVerify:
    def test_identities_of_the_formulas(self, run: Run, crops: list[Path]) -> None:
        result = run("verify", crops[0], crops[2], "--aligned", "--untrained", "--json").json
        assert result["cosine"] == pytest.approx(1 - result["squared_distance"] / 2)
        assert result["same"] == (result["cosine"] >= result["threshold"])
        same = run("verify", crops[0], crops[0], "--aligned", "--untrained", "--json").json
        assert same["cosine"] == pytest.approx(1)
        assert same["squared_distance"] == pytest.approx(0, abs=1e-6)

    def test_threshold_decides(self, run: Run, crops: list[Path]) -> None:
        command = ["verify", crops[0], crops[2], "--aligned", "--untrained"]
        cosine = run(*command, "--json").json["cosine"]
        assert "\nsame person (" in run(*command, "--threshold", max(-1, cosine - 1e-3)).out
        assert "\ndifferent people (" in run(*command, "--threshold", min(1, cosine + 1e-3)).out

    def test_real_pairs(self, run: Run, photos: Path, trained: list[object], tmp_path: Path) -> None:
        command = ["verify", *trained]
        same = run(*command, photos / "00a.jpg", photos / "00b.jpg", "--show", tmp_path / "same.png")
        assert same.code == 0
        assert "same person" in same.out
        other = run(*command, photos / "24a.jpg", photos / "24b.jpg", "--show", tmp_path / "other.jpg")
        assert "different people" in other.out
        for name in ("same.png", "other.jpg"):
            picture = read_image(tmp_path / name)
            assert picture.shape[0] > 600
            assert picture.shape[1] > 800
        # The decision's colour is drawn around the face: green there, none of it in the other picture.
        green = np.abs(read_image(tmp_path / "same.png").astype(int) - (20, 140, 60)).max(axis=2) == 0
        assert green.sum() > 500

    def test_show_of_aligned_crops(self, run: Run, crops: list[Path], tmp_path: Path) -> None:
        show = tmp_path / "show.png"
        assert run("verify", *crops[:2], "--aligned", "--untrained", "--show", show).code == 0
        assert read_image(show).shape[2] == 3

    def test_refusals(self, run: Run, crops: list[Path], tmp_path: Path) -> None:
        pair = [*crops[:2], "--aligned"]
        untrained = run("verify", *pair, "--model", "pocketnet_s256")
        assert refused(untrained, "no trained weights ship for pocketnet_s256")
        assert refused(run("verify", *pair, "--untrained", "--show", tmp_path / "x.gif"), ".png")
        assert refused(
            run("verify", crops[0], tmp_path / "none.jpg", "--aligned", "--untrained"), "no such file"
        )
        assert run("verify", *pair, "--untrained", "--threshold", 2).code == 2
        untrained = ["verify", *pair, "--untrained", "--far"]
        assert refused(run(*untrained, 1e-4, "--threshold", 0.3), "--threshold and --far exclude each other")
        assert refused(run(*untrained, 0), "--far is 0; expected a rate above 0 and below 1")
        assert refused(run(*untrained, 1e-4), "carry no calibrated threshold")

    def test_the_shipped_weights_decide_at_any_of_their_rates(self, run: Run, crops: list[Path]) -> None:
        command = ["verify", crops[0], crops[2], "--aligned"]
        default = run(*command, "--json").json
        assert (default["far"], default["far_source"]) == (1e-4, "calibration")
        text = run(*command).out
        assert f"(threshold: cosine {default['threshold']:.3f} for FAR 1e-4, squared distance " in text
        thresholds = []
        for far in (1e-3, 1e-4, 1e-5):
            result = run(*command, "--far", far, "--json").json
            assert (result["far"], result["far_source"]) == (far, "option")
            assert result["threshold_source"] == "calibration"
            thresholds.append(result["threshold"])
        assert thresholds == sorted(set(thresholds))
        assert refused(run(*command, "--far", 1e-6), "FAR 1e-6 is carried, only for 1e-3, 1e-4, 1e-5")


def test_shards_are_all_photos_once(run: Run, crops: list[Path]) -> None:
    options = ("--aligned", "--untrained", "--json")
    whole = run("embed", *crops, *options).json["embeddings"]
    parts = [run("embed", *crops, *options, "--shard", f"{i}/2").json["embeddings"] for i in (1, 2)]
    assert [row["file"] for row in parts[0]] == [str(crops[0]), str(crops[2])]
    assert sorted(row["file"] for part in parts for row in part) == sorted(row["file"] for row in whole)
    for wrong in ("0/2", "3/2", "2", "1/0", "-1/2", "a/b"):
        assert refused(run("embed", *crops, *options, "--shard", wrong), "expected I/N with I from 1 to N")
    assert refused(run("embed", *crops, *options, "--shard", "4/4"), "3 photos leave nothing for this part")


@pytest.mark.slow
def test_photos_are_decided_right(photos: Path, trained: list[object]) -> None:
    """The whole path from 48 pairs of unaligned photos to decisions, with a trained model."""
    import pocketnet_fast
    from pocketnet_fast.models.weights import weights_sha256

    model = pocketnet_fast.create_model("mobilefacenet", weights=str(trained[-1]))
    analyzer = pocketnet_fast.FaceAnalyzer(model=model, engine="eager")
    assert analyzer.embedder.weights_sha256 == weights_sha256(model)
    cosine, same = photo_cosines(photos, analyzer)
    assert ((cosine >= 0.3) == same).mean() >= 0.97


@pytest.mark.parametrize("command", ["embed", "verify"])
def test_help_has_an_example(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert f"pocketnet {command} " in result.out
    assert "Example" in result.out
