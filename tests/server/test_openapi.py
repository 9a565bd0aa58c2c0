"""The document of the service's interface: valid, complete in itself, with examples of what it describes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "server" / "openapi.json"
OPEN = {"/", "/healthz", "/readyz", "/openapi.json"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(DOCUMENT.read_bytes())


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def resolved(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def test_is_valid(document: dict[str, Any]) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(document)
    assert document["openapi"].startswith("3.1.")
    assert document["servers"] == [{"url": "/"}]


def test_every_component_is_used(document: dict[str, Any]) -> None:
    used = {node["$ref"] for node in nodes(document) if "$ref" in node}
    there = {
        f"#/components/{kind}/{name}"
        for kind, named in document["components"].items()
        if kind != "securitySchemes"
        for name in named
    }
    assert used == there


def test_examples_fit_their_schemas(document: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    checked = 0
    for node in nodes(document):
        if "example" in node and "schema" in node:
            schema = {**node["schema"], "components": document["components"]}
            jsonschema.Draft202012Validator(schema).validate(node["example"])
            checked += 1
    assert checked > 20


def test_operations_state_what_all_have_in_common(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))
    for path, operation in operations(document):
        # A document that leaves out a token's problem, or the request id, describes another server.
        assert (operation.get("security") == []) == (path in OPEN), path
        assert ("401" in operation["responses"]) == (path not in OPEN), path
        assert {"431", "500"} <= set(operation["responses"]), path
        for status, response in operation["responses"].items():
            described = resolved(document, response)
            assert "X-Request-Id" in described["headers"], (path, status)
            assert ("application/problem+json" in described.get("content", {})) == (int(status) >= 400)


def test_answers_allow_nothing_else(document: dict[str, Any]) -> None:
    """What is ours is closed, so that a field that nobody described is noticed."""
    open_on_purpose = {"V2Config", "V2ConfigTensor", "V2InferRequest", "V2Input"}
    open_on_purpose |= {"V2WantedOutput", "V2Parameters"}
    for name, schema in document["components"]["schemas"].items():
        if schema.get("type") == "object" and name not in open_on_purpose:
            assert schema.get("additionalProperties") is False, name
            assert set(schema["required"]) <= set(schema["properties"]), name
