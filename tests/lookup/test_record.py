"""What sshd is told, when the journal takes the entry and when it does not."""

import contextlib
import dataclasses
import socket
from pathlib import Path

import pytest

from eic_agent.errors import Reason
from eic_agent.journal.entries import Decision
from eic_agent.journal.writer import open_journal
from eic_agent.lookup.question import Answer, Question
from eic_agent.lookup.record import Recorder
from eic_agent.metadata.deadline import Deadline
from eic_sandbox.journald import Journald, journald

GRANTED = Decision(
    granted=True,
    reason=None,
    detail="",
    user="alice",
    fingerprint="SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
    caller="arn:aws:iam::123456789012:user/alice",
    request="1234abcd-12ab-34cd-56ef-1234567890ab",
    instance="i-0123456789abcdef0",
    expires=1738233660,
    latency_us=2500,
    sshd_pid=1,
    client_pid=2,
    client_uid=3,
    decided_at=1738233600.0,
)
REFUSED = dataclasses.replace(GRANTED, granted=False, reason=Reason.EXPIRED, fingerprint=None)
ANSWER = Answer(lines=("ssh-ed25519 AAAA",), decisions=(REFUSED, GRANTED))
QUESTION = Question("alice")


def fill(listener: Journald) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as stranger,
        contextlib.suppress(BlockingIOError),
    ):
        while True:
            stranger.sendto(b"MESSAGE=flood\n", str(listener.path))


@pytest.mark.parametrize("required", [True, False])
def test_what_the_journal_takes_is_granted(tmp_path: Path, required: bool) -> None:
    with journald(tmp_path) as listener:
        journal = open_journal(socket_path=listener.path)
        recorded = Recorder(journal, required).record(QUESTION, ANSWER, Deadline.after(5))
        assert recorded.lines == ANSWER.lines
        said = [entry.fields["EIC_DECISION"] for entry in listener.entries()]
        assert said == ["granted", "refused"]
        journal.close()


def test_a_required_entry_that_the_journal_does_not_take_refuses_the_key(tmp_path: Path) -> None:
    with journald(tmp_path) as listener:
        journal = open_journal(socket_path=listener.path)
        fill(listener)
        recorded = Recorder(journal, required=True).record(QUESTION, ANSWER, Deadline.after(0.1))
        assert recorded.lines == ()
        assert [d.reason for d in recorded.decisions] == [Reason.NOT_RECORDED, Reason.EXPIRED]
        listener.entries()
        journal.close()


def test_an_entry_that_is_not_required_costs_no_key(tmp_path: Path) -> None:
    with journald(tmp_path) as listener:
        journal = open_journal(socket_path=listener.path)
        fill(listener)
        recorded = Recorder(journal, required=False).record(QUESTION, ANSWER, Deadline.after(0.1))
        assert recorded.lines == ANSWER.lines
        listener.entries()
        journal.close()
        (late,) = [
            e.fields
            for e in listener.entries()
            if "EIC_LATE" in e.fields and e.fields["EIC_DECISION"] == "granted"
        ]
        assert late["EIC_REQUEST"] == GRANTED.request
