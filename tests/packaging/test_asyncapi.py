"""docs/asyncapi.json: what the contract's table says, in a form that tools read. How it is made is `tests/tools`'."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from edge_agent.contract import limits, topics
from edge_agent.contract.canonical import encode
from edge_agent.contract.topics import CHANNELS, Channel
from tests import line_samples as sample
from tests.tools import asyncapi_doc

TEXT = asyncapi_doc.DOCUMENT.read_text(encoding="utf-8")
DOCUMENT: dict[str, Any] = json.loads(TEXT)
BY_CHANNEL = pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)
# The fields that AsyncAPI 3.0 gives to each object, as far as they are used here; x-... may stand everywhere.
FIELDS = {
    "": {"asyncapi", "info", "defaultContentType", "servers", "channels", "operations", "components"},
    "servers": {"host", "protocol", "protocolVersion", "description", "variables", "security", "bindings"},
    "channels": {"address", "description", "parameters", "messages"},
    "operations": {"action", "channel", "summary", "messages", "bindings", "reply"},
    "messages": {"name", "summary", "description", "contentType", "payload", "headers", "bindings"},
}
SAMPLES = {
    "Hello": sample.HELLO,
    "Presence": sample.PRESENCE,
    "DeviceState": sample.DEVICE_STATE,
    "ReportBatch": sample.REPORT_BATCH,
    "Report": sample.REPORT,
    "ReportAck": sample.REPORT_ACK,
    "Get": sample.GET,
    "Assignment": sample.ASSIGNMENT,
    "Envelope": sample.ASSIGNMENT_ENVELOPE,
    "CoordinatorHere": sample.COORDINATOR_HERE,
}


def resolve(reference: str) -> Any:
    """What a local $ref points to. Raises KeyError."""
    assert reference.startswith("#/")
    node: Any = DOCUMENT
    for step in reference[2:].split("/"):
        node = node[step]
    return node


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            assert set(node) == {"$ref"}, "nothing may stand beside a reference"
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def test_the_file_is_what_the_contract_says() -> None:
    assert asyncapi_doc.document() == TEXT, "run: .venv/bin/python -m tests.tools.asyncapi_doc"


def test_every_reference_resolves_and_every_component_is_used() -> None:
    found = set(references(DOCUMENT))
    assert all(isinstance(resolve(reference), dict) for reference in found)
    parts = DOCUMENT["components"]
    assert found >= {f"#/components/{kind}/{name}" for kind in parts for name in parts[kind]}


@pytest.mark.parametrize("part", FIELDS)
def test_objects_have_the_fields_of_asyncapi_3(part: str) -> None:
    place = DOCUMENT["components"]["messages"] if part == "messages" else DOCUMENT[part] if part else {"": DOCUMENT}
    for name, thing in place.items():
        extra = {field for field in thing if not field.startswith("x-")} - FIELDS[part]
        assert not extra, f"{part}/{name}: {extra}"


def test_operations_use_messages_of_their_own_channel() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    used = set()
    for name, operation in DOCUMENT["operations"].items():
        assert operation["action"] in ("send", "receive"), name
        for told in (operation, *([operation["reply"]] if "reply" in operation else [])):
            channel = told["channel"]["$ref"]
            used.add(channel)
            assert resolve(channel)["address"]
            assert told["messages"], name
            for message in told["messages"]:
                assert message["$ref"].startswith(f"{channel}/messages/"), name
                assert resolve(resolve(message["$ref"])["$ref"])["payload"]
    assert used == {f"#/channels/{name}" for name in DOCUMENT["channels"]}


@BY_CHANNEL
def test_each_channel_is_told_with_how_it_travels(channel: Channel) -> None:
    told = DOCUMENT["channels"][channel.name]
    assert told["address"].replace("{device_id}", "kiosk-7") == channel.topic("kiosk-7")
    assert set(told.get("parameters", {})) == set(re.findall(r"\{(\w+)\}", told["address"]))
    going_up = channel.direction is topics.Direction.UP
    operation = DOCUMENT["operations"][f"{'send' if going_up else 'receive'}_{channel.name}"]
    mqtt = operation["bindings"]["mqtt"]
    assert (mqtt["qos"], mqtt["retain"], mqtt.get("messageExpiryInterval")) == (
        channel.qos, channel.retain, channel.expiry_s,
    )  # fmt: skip
    assert DOCUMENT["components"]["messages"][channel.name]["x-holdfast-bytes-max"] == channel.bytes_max


@BY_CHANNEL
def test_a_signed_message_is_an_envelope_with_a_document(channel: Channel) -> None:
    payload = DOCUMENT["components"]["messages"][channel.name]["payload"]
    if channel.signed is None:
        assert "x-holdfast-signed" not in payload
        return
    assert payload["allOf"] == [{"$ref": "#/components/schemas/Envelope"}]
    signed = payload["x-holdfast-signed"]
    assert channel.document is not None and signed["document"]["$ref"].endswith(f"/{channel.document.__name__}")
    assert f"holdfast-1 {channel.signed.value}\\n" in signed["input"]


def test_the_answer_to_a_question_is_told_as_its_reply() -> None:
    assert DOCUMENT["operations"]["send_get"]["reply"]["channel"] == {"$ref": "#/channels/got"}
    assert set(DOCUMENT["components"]["messages"]["got"]["headers"]["properties"]) == {"status", "total"}
    mqtt = DOCUMENT["servers"]["broker"]["bindings"]["mqtt"]
    assert mqtt["maximumPacketSize"] == limits.MQTT_PACKET_BYTES_MAX
    assert (mqtt["cleanSession"], mqtt["sessionExpiryInterval"]) == (True, 0)


@pytest.mark.parametrize("name", SAMPLES)
def test_schemas_name_the_fields_of_real_documents_and_their_patterns_fit(name: str) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    plain = json.loads(encode(SAMPLES[name]))
    assert set(schema["properties"]) == set(plain)
    assert set(schema["required"]) == {f.name for f in msgspec.structs.fields(SAMPLES[name]) if f.required}
    for field, told in schema["properties"].items():
        if "pattern" in told:
            assert "\\Z" not in told["pattern"], "only Python knows that sign"
            assert re.search(told["pattern"], plain[field]), field
