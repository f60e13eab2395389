"""What is said on the line and to the runtime: hello, presence, state, reports, assignments, acknowledgements."""

from __future__ import annotations

from edge_agent.contract import topics
from edge_agent.contract.canonical import sha256_hex
from tests.sync.stand import Stand


def test_a_connecting_device_says_hello_presence_and_state(stand: Stand) -> None:
    stand.start().connected()
    stand.until(lambda: stand.coordinator.heard["state"], "it tells its state")
    (hello,), (presence,) = stand.coordinator.documents(topics.HELLO), stand.coordinator.documents(topics.PRESENCE)
    assert (hello.device_id, hello.models, hello.incarnation) == ("d1", ("tiny",), "first")
    assert presence.online and presence.connection_id == hello.connection_id
    assert hello.state_digest == sha256_hex(stand.coordinator.heard["state"][0])
    stand.until(lambda: stand.runtime.links == [(True, "")], "the runtime is told of the connection")


def test_an_assignment_reaches_the_runtime_byte_for_byte(stand: Stand) -> None:
    stand.start().connected()
    stand.coordinator.say(topics.ASSIGNMENT, b"signed elsewhere")
    stand.until(lambda: stand.runtime.assignments == [b"signed elsewhere"], "the runtime has it")
