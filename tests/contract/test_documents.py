import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from maniple import topology
from maniple_cli.contract.schemas import asyncapi_document, message_schemas, rendered, schema_files
from paths import ROOT

DOCS = ROOT / "docs"
REGENERATE = "uv run maniple asyncapi --output docs/asyncapi.json --schemas docs/schemas"


def test_the_asyncapi_document_in_docs_is_what_the_code_says() -> None:
    kept = (DOCS / "asyncapi.json").read_text()
    assert kept == rendered(asyncapi_document()), f"regenerate it: {REGENERATE}"


def test_the_schemas_in_docs_are_what_the_code_says() -> None:
    kept = {path.name: path.read_text() for path in (DOCS / "schemas").iterdir()}
    assert kept == schema_files(), f"regenerate them: {REGENERATE}"


@pytest.mark.parametrize("name", sorted(message_schemas()))
def test_every_schema_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(message_schemas()[name])


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    if isinstance(node, list):
        return set().union(*map(references, node))
    return set()


def test_every_reference_in_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi_document()
    found = references(document)
    assert found
    for reference in found:
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in node, reference
            node = node[part]


def test_the_documented_channels_exist_in_the_topology() -> None:
    exchanges = {exchange.name: exchange for exchange in topology.EXCHANGES}
    queues = {queue.name for queue in topology.QUEUES}
    channels = asyncapi_document()["channels"].values()
    bindings = [channel.get("bindings", {}).get("amqp", {}) for channel in channels]
    assert all(any(kind in binding for binding in bindings) for kind in ("exchange", "queue"))
    for binding in bindings:
        if exchange := binding.get("exchange"):
            assert exchanges[exchange["name"]].kind == exchange["type"]
        if queue := binding.get("queue"):
            assert queue["name"] in queues


@pytest.mark.parametrize(("message", "schema"), [("task", "Task"), ("result", "Result")])
def test_the_examples_in_the_document_fit_their_schema(message: str, schema: str) -> None:
    examples = asyncapi_document()["components"]["messages"][message]["examples"]
    validator = Draft202012Validator(message_schemas()[schema])
    assert examples
    for example in examples:
        payload = example["payload"]
        for item in payload if isinstance(payload, list) else [payload]:
            validator.validate(json.loads(json.dumps(item)))
