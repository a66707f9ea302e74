"""The names of panoramisk that the guarded AMI connection leans on: a version that renames one fails here, by name."""

from __future__ import annotations

import asyncio
import inspect
from importlib.metadata import version

import pytest
from panoramisk.actions import Action
from panoramisk.ami_protocol import AMIProtocol
from panoramisk.manager import Manager
from panoramisk.message import Message

ADVICE = "read the changes of panoramisk, then fastagi/ami_guard.py and this test"


def test_panoramisk_is_the_version_that_was_read() -> None:
    assert version("panoramisk") == "1.4", ADVICE


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (AMIProtocol, "connection_made", ["self", "transport"]),
        (AMIProtocol, "data_received", ["self", "data"]),
        (AMIProtocol, "handle_message", ["self", "message"]),
        (AMIProtocol, "send", ["self", "data", "as_list"]),
        (AMIProtocol, "connection_lost", ["self", "exc"]),
        (AMIProtocol, "close", ["self"]),
        (Manager, "connect", ["self", "run_forever", "on_startup", "on_shutdown"]),
        (Manager, "connection_made", ["self", "f"]),
        (Manager, "connection_lost", ["self", "exc"]),
        (Manager, "login", ["self", "future"]),
        (Manager, "dispatch", ["self", "event"]),
        (Manager, "send_action", ["self", "action", "as_list", "kwargs"]),
        (Manager, "send_awaiting_actions", ["self", "_"]),
        (Manager, "close", ["self"]),
        (Message, "from_line", ["line"]),
        (Action, "add_message", ["self", "message"]),
    ],
)
def test_a_method_that_is_overridden_or_called_is_still_there(owner: type, name: str, parameters: list[str]) -> None:
    method = getattr(owner, name, None)
    assert method is not None, f"panoramisk has no {owner.__name__}.{name} any more: {ADVICE}"
    assert list(inspect.signature(method).parameters) == parameters, f"{owner.__name__}.{name} changed: {ADVICE}"


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        pass


def test_a_new_connection_logs_in_and_keeps_its_state_under_the_names_we_use() -> None:
    async def scenario() -> None:
        protocol, transport = AMIProtocol(), _Transport()
        protocol.connection_made(transport)
        for name in ("transport", "closed", "responses", "factory", "version"):
            assert hasattr(protocol, name), f"AMIProtocol.{name} is gone: {ADVICE}"
        loop = asyncio.get_running_loop()
        manager = Manager(host="127.0.0.1", port=1, username="u", secret="s", events="call,system", loop=loop)
        made = loop.create_future()
        made.set_result((transport, protocol))
        manager.connection_made(made)
        try:
            assert manager.protocol is protocol, ADVICE
            assert protocol.factory is manager, ADVICE
            assert b"Action: Login\r\n" in transport.written, ADVICE
            assert b"Events: call,system\r\n" in transport.written, ADVICE
            assert not manager.authenticated_future.done(), ADVICE
            assert manager.authenticated is False, ADVICE
            assert manager.pinger is not None, ADVICE
        finally:
            manager.authenticated_future.cancel()
            manager.authenticated_future.remove_done_callback(manager.login)
            manager.close()

    asyncio.run(scenario())


def test_an_answer_of_one_message_and_one_of_many_complete_as_we_expect() -> None:
    async def scenario() -> None:
        single = Action({"Action": "Ping"})
        assert single.id == single["ActionID"], ADVICE
        assert single.add_message(Message.from_line("Response: Success\r\nPing: Pong")) is True, ADVICE
        assert single.future.result()["Ping"] == "Pong", ADVICE

        many = Action({"Action": "CoreShowChannels"})
        many.add_message(Message.from_line("Response: Success\r\nEventList: start\r\nMessage: Channels will follow"))
        many.add_message(Message.from_line("Event: CoreShowChannel\r\nUniqueid: 1"))
        assert not many.future.done(), ADVICE
        assert len(many.responses) == 2, ADVICE
        many.add_message(Message.from_line("Event: CoreShowChannelsComplete\r\nListItems: 1"))
        assert len(many.future.result()) == 3, ADVICE

        refused = Action({"Action": "CoreShowChannels"})
        refused.add_message(Message.from_line("Response: Error\r\nMessage: Permission denied"))
        assert refused.future.result()["Message"] == "Permission denied", ADVICE

    asyncio.run(scenario())


def test_only_the_guard_and_the_connection_import_panoramisk() -> None:
    import fastagi.ami_connection as link
    import fastagi.ami_guard as guard

    assert issubclass(guard.GuardedProtocol, AMIProtocol)
    assert issubclass(guard.GuardedManager, Manager)
    assert link.Action is Action
