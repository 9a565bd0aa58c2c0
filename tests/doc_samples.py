"""The photos, crops, pairs and weights that the documentation's pages name, small ones."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from faces import write_folder
from pair_files import drawn_pairs
from training_runs import write_faces

from pocketnet_fast.data.images import encode_image, read_image
from pocketnet_fast.evaluation.pair_files import write_pairs
from pocketnet_fast.faces.analyzer import FaceAnalyzer
from pocketnet_fast.models.registry import PRETRAINED
from pocketnet_fast.models.shipped import verified

_PORTRAITS = {
    "Ann Lee": ("skimage", "data/astronaut.png"),
    "Grace Hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}

Photo = npt.NDArray[np.uint8]


def write_samples(folder: Path) -> None:
    """Fill a folder; skips the test where a package that carries a portrait is not installed."""
    ann, grace = (_portrait(*place) for place in _PORTRAITS.values())
    other_ann, other_grace = (np.ascontiguousarray(photo[:, ::-1] // 5 * 4) for photo in (ann, grace))
    photos = {
        **dict.fromkeys(("a.jpg", "one.jpg", "photo.jpg", "photos/1.jpg", "people/Ann Lee/1.jpg"), ann),
        **dict.fromkeys(("b.jpg", "who.jpg", "photos/3.jpg", "people/Ann Lee/2.jpg"), other_ann),
        **dict.fromkeys(("c.jpg", "other.jpg", "photos/2.jpg", "people/Grace Hopper/1.jpg"), grace),
        "people/Grace Hopper/2.jpg": other_grace,
        "party.jpg": np.hstack([ann, grace[: len(ann)]]),
    }
    for name, photo in photos.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(photo, ".jpg"))
    for name, photo in (("one.ppm", ann), ("other.ppm", other_ann)):
        cv2.imwrite(str(folder / name), photo[:, :, ::-1])
    (folder / "crops").mkdir()
    for number, face in enumerate(
        faces[0] for faces in FaceAnalyzer(max_faces=1).analyze_many([ann, other_ann, grace])
    ):
        assert face.crop is not None
        (folder / "crops" / f"{number}.png").write_bytes(encode_image(face.crop, ".png"))
        (folder / "crops" / f"{number}.rgb").write_bytes(face.crop.tobytes())
    write_pairs(folder / "lfw.bin", drawn_pairs(20))
    write_pairs(folder / "cfp_fp.bin", drawn_pairs(20))
    shutil.copy(verified(PRETRAINED["pocketnet_s128"]), folder / "mine.safetensors")
    write_folder(folder / "faces", {"001": 3, "002": 3, "003": 3, "004": 3})
    (folder / "casia").mkdir()
    write_faces(folder / "casia" / "train.rec", identities=4, images=4)


def _portrait(package: str, file: str) -> Photo:
    """A portrait that a package carries, at most 512 pixels high."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package}, whose portrait the pages are tried on, is not installed")
    photo = read_image(Path(spec.origin).parent / file)
    scale = min(1, 512 / len(photo))
    return cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else photo
