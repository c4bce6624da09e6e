"""Connections: dialled until one is taken, and bounded from then on."""

import errno
import socket
from collections.abc import Iterator

import pytest

from eic_agent.metadata import wire
from eic_agent.metadata.deadline import Deadline
from eic_agent.metadata.wire import Lost, Wire, dial
from tests.metadata.service import never_accepting, plenty

LOCALHOST = "127.0.0.1"


@pytest.fixture(name="listener")
def listening() -> Iterator[socket.socket]:
    with socket.create_server((LOCALHOST, 0)) as listener:
        yield listener


@pytest.fixture(name="dialled")
def every_attempt(monkeypatch: pytest.MonkeyPatch) -> list[Wire]:
    """Every connection that was begun."""
    dialled: list[Wire] = []

    class Noted(Wire):
        def __init__(self, address: tuple[str, int]) -> None:
            dialled.append(self)
            super().__init__(address)

    monkeypatch.setattr(wire, "Wire", Noted)
    return dialled


class TestDial:
    def test_the_first_address_that_takes_a_connection_wins(
        self, listener: socket.socket, dialled: list[Wire]
    ) -> None:
        with never_accepting() as nowhere:
            dead = (LOCALHOST, int(nowhere.rpartition(":")[2]))
            with dial((dead, listener.getsockname()), plenty()) as won:
                assert won is dialled[1]
                assert won.getpeername() == listener.getsockname()
        assert dialled[0].fileno() == -1, "left open"

    def test_an_attempt_that_was_lost_is_followed_by_another(
        self, monkeypatch: pytest.MonkeyPatch, listener: socket.socket, dialled: list[Wire]
    ) -> None:
        connect = Wire.connect
        with never_accepting() as nowhere:
            dead = (LOCALHOST, int(nowhere.rpartition(":")[2]))

            def first_lost(self: Wire, address: tuple[str, int]) -> None:
                connect(self, dead if self is dialled[0] else address)

            monkeypatch.setattr(Wire, "connect", first_lost)
            with dial((listener.getsockname(),), plenty()) as won:
                assert won is dialled[1]

    def test_attempts_grow_rarer(self, dialled: list[Wire]) -> None:
        with never_accepting() as nowhere:
            dead = (LOCALHOST, int(nowhere.rpartition(":")[2]))
            with pytest.raises(Lost, match="not connected") as caught:
                dial((dead,), Deadline.after(2.0))
        assert caught.value.sent
        assert 1 < len(dialled) <= 4
        assert all(attempt.fileno() == -1 for attempt in dialled)

    def test_a_refusal_is_told_at_once_for_every_address(self, dialled: list[Wire]) -> None:
        with socket.socket() as bound:
            bound.bind((LOCALHOST, 0))
            dead = bound.getsockname()
            with pytest.raises(Lost, match=f"{LOCALHOST}: Connection refused") as caught:
                dial((dead,), plenty())
        assert caught.value.sent
        assert len(dialled) == 1

    @pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.EPERM, errno.EMFILE])
    def test_what_this_machine_refuses_was_not_sent(
        self, code: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(self: Wire, address: tuple[str, int]) -> None:
            raise OSError(code, "not from here")

        monkeypatch.setattr(Wire, "connect", refuse)
        with pytest.raises(Lost, match=r"192.0.2.1: not from here") as caught:
            dial((("192.0.2.1", 80),), plenty())
        assert not caught.value.sent


class TestWire:
    @pytest.fixture(name="pair")
    def connected_pair(self, listener: socket.socket) -> Iterator[tuple[Wire, socket.socket]]:
        with dial((listener.getsockname(),), plenty()) as ours:
            peer, _ = listener.accept()
            with peer:
                yield ours, peer

    def test_sending_is_bounded_too(self, pair: tuple[Wire, socket.socket]) -> None:
        ours, _ = pair
        ours.expect_answer(Deadline.after(0.1))
        with pytest.raises(Lost, match=r"out of time after 0.1 s, with no answer"):
            ours.sendall(bytes(1 << 26))

    def test_what_was_said_before_hanging_up_is_heard(
        self, pair: tuple[Wire, socket.socket]
    ) -> None:
        ours, peer = pair
        ours.expect_answer(plenty())
        peer.sendall(b"HTTP/1.1 400")
        peer.shutdown(socket.SHUT_RD)
        ours.sendall(b"GET")
        with ours.makefile("rb", 0) as incoming:
            assert incoming.read(100) == b"HTTP/1.1 400"

    def test_a_reset_is_told_with_how_far_the_answer_came(
        self, pair: tuple[Wire, socket.socket]
    ) -> None:
        ours, peer = pair
        ours.expect_answer(plenty())
        peer.sendall(b"HTTP")
        with ours.makefile("rb", 0) as incoming:
            assert incoming.read(4) == b"HTTP"
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()
            with pytest.raises(Lost, match="reset by peer, with 4 bytes of the answer") as caught:
                incoming.read(4)
        assert caught.value.address == ours.address
