"""The Open Inference Protocol, spoken by the client that Triton's own makers publish."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import Service, running

import pocketnet_fast
from pocketnet_fast import FaceAnalyzer
from pocketnet_fast.export.photos import check_scene

http = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")

pytestmark = pytest.mark.slow(seconds=10)


@pytest.fixture(scope="module")
def service(faces_pt: Path) -> Iterator[Service]:
    with running(faces_pt) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[Any]:
    client = http.InferenceServerClient(service.url.removeprefix("http://"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (3, 112, 112, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(crops: np.ndarray) -> np.ndarray:
    """Of unit length, the mirror image's added, as the file says that it embeds."""
    network = pocketnet_fast.compile(
        pocketnet_fast.create_model("pocketnet_s128", pretrained=True), flip=True
    )
    return torch.nn.functional.normalize(network(torch.from_numpy(crops))).numpy()


def tensor(name: str, values: np.ndarray, binary: bool) -> Any:
    made = http.InferInput(name, list(values.shape), "UINT8")
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "pocketnet_server"
    assert {model["name"] for model in client.get_model_repository_index()} == {"crops", "faces"}
    for version in ("", "1"):
        assert client.is_model_ready("crops", version)
        described = client.get_model_metadata("faces", version)
        assert [output["name"] for output in described["outputs"]] == [
            "boxes",
            "landmarks",
            "scores",
            "embeddings",
        ]
        assert client.get_model_config("crops", version)["input"][0]["data_type"] == "TYPE_UINT8"
    assert not client.is_model_ready("crops", "2")
    assert not client.is_model_ready("other")


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_crops(
    client: Any, crops: np.ndarray, expected: np.ndarray, binary_in: bool, binary_out: bool
) -> None:
    wanted = [http.InferRequestedOutput("embeddings", binary_data=binary_out)]
    answer = client.infer(
        "crops", [tensor("crops", crops, binary_in)], outputs=wanted, request_id="forty-two"
    )
    embeddings = answer.as_numpy("embeddings")
    assert embeddings.dtype == np.float32 and embeddings.shape == (3, 128)
    assert np.abs(embeddings - expected).max() < 1e-4
    assert answer.get_response()["id"] == "forty-two"
    assert ("data" in answer.get_output("embeddings")) != binary_out


def test_client_that_names_no_output(client: Any, crops: np.ndarray, expected: np.ndarray) -> None:
    embeddings = client.infer("crops", [tensor("crops", crops, True)], model_version="1").as_numpy(
        "embeddings"
    )
    assert np.abs(embeddings - expected).max() < 1e-4


def test_faces(client: Any, analyzer: FaceAnalyzer) -> None:
    scene = check_scene()
    answer = client.infer("faces", [tensor("photo", scene, True)])
    faces = analyzer.analyze(scene)
    assert answer.as_numpy("boxes").shape == (len(faces), 4)
    assert answer.as_numpy("landmarks").shape == (len(faces), 5, 2)
    for place, face in enumerate(faces):
        assert np.abs(answer.as_numpy("boxes")[place] - face.box).max() < 0.01
        assert np.abs(answer.as_numpy("landmarks")[place] - face.landmarks).max() < 0.01
        assert abs(answer.as_numpy("scores")[place] - face.score) < 1e-3
        assert np.abs(answer.as_numpy("embeddings")[place] - face.embedding).max() < 1e-4


def test_photo_without_a_face(client: Any) -> None:
    """Empty tensors, in either form."""
    for binary in (True, False):
        wanted = [http.InferRequestedOutput(name, binary_data=binary) for name in ("boxes", "embeddings")]
        answer = client.infer(
            "faces", [tensor("photo", np.zeros((60, 80, 3), np.uint8), True)], outputs=wanted
        )
        assert answer.get_output("boxes")["shape"] == [0, 4]
        assert answer.get_output("embeddings")["shape"] == [0, 128]


def test_what_is_wrong_reaches_the_client(client: Any, crops: np.ndarray) -> None:
    """As a message of the protocol, not as one that the client cannot decode."""
    error = http.InferenceServerException if hasattr(http, "InferenceServerException") else Exception
    cases = [
        ("crops", tensor("pixels", crops, True), "input"),
        ("crops", tensor("crops", crops[:, :111], True), "112"),
        ("faces", tensor("photo", crops, False), "[H, W, 3]"),
        ("nobody", tensor("crops", crops, True), "no such model"),
    ]
    for name, given, words in cases:
        with pytest.raises(error) as refused:
            client.infer(name, [given])
        assert words in str(refused.value)
        assert "decod" not in str(refused.value)
    with pytest.raises(error) as refused:
        client.infer(
            "crops", [tensor("crops", crops, True)], outputs=[http.InferRequestedOutput("embedding")]
        )
    assert "no output 'embedding'" in str(refused.value)


def crops_request(data: str = "[]", more: str = "") -> bytes:
    given = f'{{"name": "crops", "datatype": "UINT8", "shape": [0, 112, 112, 3], "data": {data}}}'
    return f'{{"inputs": [{given}]{more}}}'.encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            crops_request(more=', "outputs": [{"name": "embeddings"}, {"name": "embeddings"}]'),
            "more than once",
        ),
        (crops_request(more=f', "x": [{"[]," * 10_000}0]'), "too many values"),
        (crops_request(data="[" * 9 + "]" * 9), "'data' is nested too deeply"),
        (crops_request(data="{}"), "whole numbers to 255"),
        (crops_request(data="[[1, {}]]"), "whole numbers to 255"),
        (crops_request(data="[256]"), "whole numbers to 255"),
        (crops_request(data="7"), "'data' must be a list of numbers"),
        (crops_request(data="[[7], [[8]]]"), "0 elements, and there are 2"),
        (crops_request(data="[7]], "), "must be a JSON object"),
        (crops_request(), "N at least 1"),
    ],
)
def test_what_no_client_sends(service: Service, body: bytes, words: str) -> None:
    status, _, answer = service.ask("/v2/models/crops/infer", body, {"Content-Type": "application/json"})
    assert status == 400
    assert words in json.loads(answer)["detail"]


def test_memory_for_lists_of_nothing(faces_pt: Path) -> None:
    """Parsed into a tree, they would take sixteen times their text."""

    def peak(service: Service) -> float:
        status = Path(f"/proc/{service.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]

    with running(faces_pt) as service:
        before = peak(service)
        for data in ("[" + "[]," * 10_000_000 + "[]]", "[" + "7," * 15_000_000 + "7]"):
            body = crops_request(data=data)
            assert service.ask("/v2/models/crops/infer", body, {"Content-Type": "application/json"})[0] == 400
        assert peak(service) - before < 150
