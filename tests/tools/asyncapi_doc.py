"""`python -m tests.tools.asyncapi_doc` writes docs/asyncapi.json from the contract's table of channels and its types;
nothing is decided here.

The document is AsyncAPI 3.0, told from the device's side: it sends what goes up, and receives what comes down.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract import limits, topics, transfer
from edge_agent.contract.envelope import Envelope, SignedKind, signing_input
from edge_agent.contract.presence import CONTRACT_VERSIONS
from edge_agent.contract.topics import CHANNELS, Channel, Direction
from tests.harness.agent import ROOT

DOCUMENT = ROOT / "docs" / "asyncapi.json"
BINDING_VERSION = "0.2.0"
PARAMETER = "device_id"
ABOUT = """\
Generated from edge_agent/contract by tests/tools/asyncapi_doc.py: change the types there, then run it again. Told from
the side of a device. Documents are canonical JSON (RFC 8785); unknown fields are ignored, but a name in must_understand
that the reader does not know refuses the document. docs/protocol.md tells how the line works.
"""

Json = dict[str, Any]


def document() -> str:
    """The whole file."""
    return json.dumps(described(), indent=2, ensure_ascii=False) + "\n"


def described() -> Json:
    """The document as plain data."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Holdfast: the line between devices and coordinator",
            "version": str(CONTRACT_VERSIONS[-1]),
            "description": _one_line(ABOUT),
        },
        "defaultContentType": "application/json",
        "servers": {"broker": _server()},
        "channels": {channel.name: _channel(channel) for channel in CHANNELS},
        "operations": {_operation_name(channel): _operation(channel) for channel in CHANNELS},
        "components": {
            "messages": {channel.name: _message(channel) for channel in CHANNELS},
            "schemas": _schemas(),
            "parameters": {PARAMETER: {"description": "The device's name, which is its user name at the broker"}},
            "securitySchemes": {
                "password": {"type": "userPassword", "description": "The user name is the device's name"},
                "certificate": {"type": "X509", "description": "Mutual TLS"},
            },
        },
    }


def _server() -> Json:
    will = {"topic": _address(topics.PRESENCE), "qos": topics.PRESENCE.qos, "retain": topics.PRESENCE.retain}
    return {
        "host": "{broker}",
        "protocol": "secure-mqtt",
        "protocolVersion": "5",
        "description": "Any MQTT 5 broker. It is not trusted with what a device runs: that is signed",
        "variables": {"broker": {"default": "broker.example:8883", "description": "[sync] broker of agent.toml"}},
        "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("password", "certificate")],
        "bindings": {
            "mqtt": {
                "cleanSession": True,
                "sessionExpiryInterval": 0,
                "lastWill": {**will, "message": "A presence document with online = false"},
                "maximumPacketSize": limits.MQTT_PACKET_BYTES_MAX,
                "bindingVersion": BINDING_VERSION,
            }
        },
    }


def _channel(channel: Channel) -> Json:
    told = {"address": _address(channel), "description": _sentence(channel.says)}
    if channel.direction is not Direction.ALL:
        told["parameters"] = {PARAMETER: {"$ref": f"#/components/parameters/{PARAMETER}"}}
    return {**told, "messages": {channel.name: {"$ref": f"#/components/messages/{channel.name}"}}}


def _operation_name(channel: Channel) -> str:
    return f"{_action(channel)}_{channel.name}"


def _operation(channel: Channel) -> Json:
    mqtt: Json = {"qos": channel.qos, "retain": channel.retain}
    if channel.expiry_s is not None:
        mqtt["messageExpiryInterval"] = channel.expiry_s
    told = {
        "action": _action(channel),
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "summary": _sentence(channel.says),
        "messages": [_message_of(channel)],
        "bindings": {"mqtt": {**mqtt, "bindingVersion": BINDING_VERSION}},
    }
    if channel is topics.GET:
        told["reply"] = {
            "channel": {"$ref": f"#/channels/{topics.GOT.name}"},
            "messages": [_message_of(topics.GOT)],
        }
    return told


def _message(channel: Channel) -> Json:
    told: Json = {
        "name": channel.name,
        "summary": _sentence(channel.says),
        "contentType": "application/octet-stream" if channel.document is None else "application/json",
        "payload": _payload(channel),
        "x-holdfast-bytes-max": channel.bytes_max,
    }
    if channel in (topics.GET, topics.GOT):
        chosen = {"type": "string", "format": "binary", "description": "Chosen by whoever asks, sent back as it came"}
        told["bindings"] = {"mqtt": {"correlationData": chosen, "bindingVersion": BINDING_VERSION}}
    if channel is topics.GOT:
        told["headers"] = _answer_properties()
    if channel.signed:
        told["description"] = (
            "Counts only when the signature holds under the public key of coordinator.json, which the publisher signs"
        )
    return told


def _payload(channel: Channel) -> Json:
    """What the payload says; of a signed document, the envelope and what is in it."""
    if channel.document is None:
        return {"type": "string", "format": "binary", "description": "Raw bytes"}
    reference = {"$ref": f"#/components/schemas/{channel.document.__name__}"}
    if channel.signed is None:
        return reference
    return {
        "allOf": [{"$ref": f"#/components/schemas/{Envelope.__name__}"}],
        "x-holdfast-signed": {
            "algorithm": "Ed25519",
            "input": _input(channel.signed),
            "document": reference,
        },
    }


def _input(kind: SignedKind) -> str:
    return f"the bytes {json.dumps(signing_input(kind, b'').decode())}, then the decoded payload"


def _answer_properties() -> Json:
    """User properties are texts, so numbers are too."""
    return {
        "type": "object",
        "description": "MQTT user properties",
        "properties": {
            transfer.STATUS: {"type": "string", "pattern": "^[0-9]{3}$", "description": "As in HTTP; 200 = here it is"},
            transfer.TOTAL_BYTES: {"type": "string", "pattern": "^[0-9]+$", "description": "Bytes of the whole thing"},
        },
        "required": [transfer.STATUS],
    }


def _schemas() -> Json:
    kinds = [Envelope, *(channel.document for channel in CHANNELS if channel.document is not None)]
    _, found = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return {name: _plain(schema) for name, schema in sorted(found.items())}


def _plain(node: Any) -> Any:
    """Schemas as other tools read them: patterns end with $ (only Python knows \\Z), a reference stands alone (what is
    beside it is ignored by draft 7), texts have one line.
    """
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return {"$ref": node["$ref"]}
    plain = {key: _plain(value) for key, value in node.items()}
    if isinstance(plain.get("pattern"), str):
        plain["pattern"] = plain["pattern"].replace("\\Z", "$")
    if isinstance(plain.get("description"), str):
        plain["description"] = _one_line(inspect.cleandoc(plain["description"]))
    return plain


def _address(channel: Channel) -> str:
    return channel.topic(f"{{{PARAMETER}}}")


def _action(channel: Channel) -> str:
    return "send" if channel.direction is Direction.UP else "receive"


def _message_of(channel: Channel) -> Json:
    return {"$ref": f"#/channels/{channel.name}/messages/{channel.name}"}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def main(out: Path = DOCUMENT) -> int:
    """Write the file."""
    out.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
