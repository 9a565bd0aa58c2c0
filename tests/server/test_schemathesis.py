"""The service against its description: every route asked what fits and what does not, every answer checked.

Schemathesis draws requests from the document, valid ones and broken ones, and compares status codes, headers,
media types and bodies of the answers with it.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_files import empty_gallery
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from running import Service, running

from pocketnet_fast.data.images import encode_image
from pocketnet_fast.export.photos import check_scene

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

pytestmark = pytest.mark.slow(seconds=50)

DOCUMENT = Path(__file__).resolve().parents[2] / "server" / "openapi.json"
TOKEN = "a-token-for-this-test"

# Bodies that are what is asked for, damaged, of another kind, or nothing of the sort.
_PHOTO = encode_image(check_scene(), ".jpg")
_CROP = encode_image(np.zeros((112, 112, 3), np.uint8), ".png")
_RAW = bytes(2 * 112 * 112 * 3)
_TENSOR = b'{"inputs": [{"name": "photo", "datatype": "UINT8", "shape": [1, 1, 3], "data": [7, 8, 9]}]}'
_DAMAGED = st.one_of(st.sampled_from([_PHOTO[:700], _CROP[:-20], _RAW[:-1]]), st.binary(max_size=64))
for kind in ("image/jpeg", "image/png", "image/webp", "image/*"):
    schemathesis.openapi.media_type(kind, st.one_of(st.sampled_from([_PHOTO, _CROP]), _DAMAGED))
schemathesis.openapi.media_type(
    "application/octet-stream", st.one_of(st.sampled_from([_RAW, _PHOTO, _TENSOR]), _DAMAGED)
)

# What is described may still be damaged, without a face, or not there.
_ACCEPTED = ["2XX", "404", "409", "415", "422", "501"]
CONFIG = schemathesis.Config.from_dict(
    {
        "seed": 1,
        "checks": {"positive_data_acceptance": {"expected-statuses": _ACCEPTED}},
        # Methods that HTTP does not know are refused by their line, as any other line that is none.
        "phases": {"coverage": {"unexpected-methods": ["PUT", "PATCH", "DELETE", "TRACE"]}},
        "operations": [
            # No schema says that a tensor has as many numbers as its shape, an embedding as the model gives;
            # and in forms, text that is not empty may be sent as such.
            {
                "include-path-regex": "(infer|:search|people)$",
                "checks": {"positive_data_acceptance": {"expected-statuses": [*_ACCEPTED, "400"]}},
            }
        ],
    }
)


def of_this_service() -> dict[str, Any]:
    """The document, with what is there: one gallery, few people, the model for photos, the file's rates."""
    document = json.loads(DOCUMENT.read_bytes())
    parameters = document["components"]["parameters"]
    parameters["Gallery"]["schema"] = {"enum": ["staff"]}
    parameters["Person"]["example"] = 1
    parameters["V2Model"]["schema"] = {"enum": ["faces"]}
    parameters["Far"]["schema"] = {"enum": [1e-3, 1e-4, 1e-5]}
    # Schemathesis draws files for parts only where the schema names them directly.
    schemas = document["components"]["schemas"]
    schemas["EnrolmentForm"] = schemas["NamedEnrolment"]
    return document


@pytest.fixture(scope="module")
def service(faces_pt: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "tokens").write_text(f"{TOKEN}\n")
    empty_gallery(folder / "galleries", "staff", faces_pt)
    with running(faces_pt, "--tokens", folder / "tokens", "--galleries", folder / "galleries") as service:
        yield service


api = schemathesis.openapi.from_dict(of_this_service(), config=CONFIG)


@api.parametrize()
@settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_described(case: Any, service: Service) -> None:
    case.call_and_validate(base_url=service.url, headers={"Authorization": f"Bearer {TOKEN}"})


def test_served_description_is_this_one(service: Service) -> None:
    status, headers, body = service.ask("/openapi.json")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert body == DOCUMENT.read_bytes()


def test_every_route_succeeded_and_none_failed(service: Service) -> None:
    """Runs last in this file: what was asked above was no string of refusals, and nothing failed inside."""
    statuses = defaultdict(set)
    for line in service.log:
        assert line["event"] != "failure", line
        if line["event"] == "request" and line["route"]:
            statuses[line["method"], line["route"]].add(line["status"])
    succeeded = {route for route, found in statuses.items() if min(found) < 300}
    document = json.loads(DOCUMENT.read_bytes())
    described = {(m.upper(), path) for path, methods in document["paths"].items() for m in methods}
    assert {(method, without_names(route)) for method, route in succeeded} >= {
        (method, without_names(path)) for method, path in described
    }
    assert {status for found in statuses.values() for status in found if status >= 500} <= {501}


def without_names(path: str) -> str:
    """A path's pattern, whatever its variables are called."""
    return re.sub(r"{[a-z]+}", "{}", path)
