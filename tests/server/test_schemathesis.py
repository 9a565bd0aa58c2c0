"""The service against its description: every route asked what fits and what does not, every answer checked.

Schemathesis draws requests from the document, valid ones and broken ones, and compares status codes, headers,
media types and bodies of the answers with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from running import Service, running

from pocketnet_fast import FaceAnalyzer
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.export import export_torchscript
from pocketnet_fast.export.photos import check_scene

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

pytestmark = pytest.mark.slow(seconds=50)

TOKEN = "a-token-for-this-test"

# Bodies that are images, crops, or nothing of the kind.
_PHOTO = encode_image(check_scene(), ".jpg")
_CROP = encode_image(np.zeros((112, 112, 3), np.uint8), ".png")
_BODIES = st.one_of(
    st.sampled_from([_PHOTO, _CROP, bytes(112 * 112 * 3)]),
    st.sampled_from([_PHOTO[:700], _CROP[:-20], bytes(112 * 112 * 3 - 1)]),
    st.binary(max_size=64),
)
for kind in ("image/jpeg", "image/png", "image/webp", "image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, _BODIES)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    model = export_torchscript(FaceAnalyzer(), folder / "faces.pt").path
    (folder / "tokens").write_text(f"{TOKEN}\n")
    (folder / "galleries").mkdir()
    with running(model, "--tokens", folder / "tokens", "--galleries", folder / "galleries") as service:
        yield service


@pytest.fixture(scope="module")
def document(service: Service) -> Any:
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


api = schemathesis.pytest.from_fixture("document")


@api.parametrize()
@settings(
    max_examples=12,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_described(case: Any) -> None:
    case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"})


def test_no_fault_is_in_the_log(service: Service) -> None:
    """Runs last in this file: after all that was asked above, nothing failed inside."""
    statuses = [line["status"] for line in service.log if line["event"] == "request"]
    assert len(statuses) > 200
    assert {status for status in statuses if status >= 500} <= {501}
    assert [line for line in service.log if line["event"] == "failure"] == []
