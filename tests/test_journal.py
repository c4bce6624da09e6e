"""Entries as a journald, or a terminal where there is none, receives them."""

import dataclasses
import io
import os
import re
import socket
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eic_agent.errors import Reason
from eic_agent.journal import entries, outputs
from eic_agent.journal.entries import Decision, escape
from eic_agent.journal.writer import Journal, open_journal
from eic_sandbox.journald import Entry, Journald, journald, parse

GRANTED = Decision(
    granted=True,
    reason=None,
    detail="",
    user="ec2-user",
    fingerprint="SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
    caller="arn:aws:sts::123456789012:assumed-role/Admin/alice",
    request="1234abcd-12ab-34cd-56ef-1234567890ab",
    instance="i-0123456789abcdef0",
    expires=1738233660,
    latency_us=2500,
    sshd_pid=4711,
)
REFUSED = dataclasses.replace(
    GRANTED,
    granted=False,
    reason=Reason.EXPIRED,
    detail="expired 12 s ago",
    user="bob",
    caller=None,
    request=None,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Journald]:
    with journald(tmp_path) as listening:
        yield listening


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def journal(listener: Journald, terminal: io.StringIO, clock: Clock) -> Iterator[Journal]:
    opened = open_journal(socket_path=listener.path, stderr=terminal, clock=clock)
    yield opened
    opened.close()


def test_a_granted_key_has_every_field_of_the_contract(
    journal: Journal, listener: Journald
) -> None:
    journal.decision(GRANTED)
    assert listener.entry() == {
        "SYSLOG_IDENTIFIER": "eic-agent",
        "SYSLOG_FACILITY": "10",
        "PRIORITY": "6",
        "MESSAGE_ID": entries.MESSAGE_ID_GRANTED,
        "MESSAGE": "granted SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU for ec2-user to "
        "arn:aws:sts::123456789012:assumed-role/Admin/alice "
        "(request 1234abcd-12ab-34cd-56ef-1234567890ab)",
        "EIC_DECISION": "granted",
        "EIC_USER": "ec2-user",
        "EIC_FINGERPRINT": "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
        "EIC_CALLER": "arn:aws:sts::123456789012:assumed-role/Admin/alice",
        "EIC_REQUEST": "1234abcd-12ab-34cd-56ef-1234567890ab",
        "EIC_INSTANCE": "i-0123456789abcdef0",
        "EIC_EXPIRES": "1738233660",
        "EIC_LATENCY_US": "2500",
        "EIC_SSHD_PID": "4711",
    }


def test_a_refused_key_is_a_notice_with_its_reason_and_no_field_for_what_is_not_known(
    journal: Journal, listener: Journald
) -> None:
    journal.decision(REFUSED)
    fields = listener.entry()
    assert fields["MESSAGE"] == (
        "refused SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU for bob: "
        "expired: expired 12 s ago"
    )
    assert fields["MESSAGE_ID"] == entries.MESSAGE_ID_REFUSED
    assert (fields["PRIORITY"], fields["EIC_DECISION"], fields["EIC_REASON"]) == (
        "5",
        "refused",
        "expired",
    )
    assert not fields.keys() & {"EIC_CALLER", "EIC_REQUEST"}


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (
            dataclasses.replace(GRANTED, caller=None, request=None),
            "granted SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU for ec2-user",
        ),
        (
            dataclasses.replace(REFUSED, fingerprint=None, reason=Reason.MALFORMED_BLOCK),
            "refused a key for bob: malformed-block: expired 12 s ago",
        ),
        (
            dataclasses.replace(REFUSED, fingerprint=None, caller="arn:x", detail=""),
            "refused a key for bob, pushed by arn:x: expired",
        ),
    ],
)
def test_messages_say_only_what_is_known(decision: Decision, message: str) -> None:
    assert str(decision) == message


def test_ids_of_messages_are_three_of_128_bits() -> None:
    ids = {value for name, value in vars(entries).items() if name.startswith("MESSAGE_ID_")}
    assert len(ids) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", value) for value in ids)


def test_a_problem_is_a_warning_with_its_reason_and_fields(
    journal: Journal, listener: Journald
) -> None:
    journal.problem(Reason.METADATA_UNAVAILABLE, "no answer in 1.0 s", user="bob")
    fields = listener.entry()
    assert fields["MESSAGE"] == "metadata-unavailable: no answer in 1.0 s"
    assert fields["MESSAGE_ID"] == entries.MESSAGE_ID_PROBLEM
    assert (fields["PRIORITY"], fields["EIC_REASON"], fields["EIC_USER"]) == (
        "4",
        "metadata-unavailable",
        "bob",
    )


def test_lines_of_a_problem_become_one(journal: Journal, listener: Journald) -> None:
    journal.problem(Reason.INVALID_CONFIG, "a.toml: x\nb.toml: y")
    assert listener.entry()["MESSAGE"] == "invalid-config: a.toml: x; b.toml: y"


def test_a_repeated_problem_is_held_back_counted_and_then_reported(
    journal: Journal, listener: Journald, clock: Clock
) -> None:
    for _ in range(5):
        journal.problem(Reason.OVERLOADED, "64 lookups wait")
    clock.now += 9.9
    journal.problem(Reason.OVERLOADED, "64 lookups wait")
    assert listener.entry()["MESSAGE"] == "overloaded: 64 lookups wait"
    clock.now += 0.2
    journal.problem(Reason.OVERLOADED, "64 lookups wait")
    fields = listener.entry()
    assert fields["EIC_HELD_BACK"] == "5"
    assert fields["MESSAGE"].endswith("(5 more of this reason were not written before)")


def test_one_reason_holds_back_no_other(journal: Journal, listener: Journald) -> None:
    journal.problem(Reason.OVERLOADED, "a")
    journal.problem(Reason.METADATA_UNAVAILABLE, "b")
    assert [entry.fields["EIC_REASON"] for entry in listener.entries()] == [
        "overloaded",
        "metadata-unavailable",
    ]


def test_closing_writes_what_was_held_back(listener: Journald, clock: Clock) -> None:
    journal = open_journal(socket_path=listener.path, clock=clock)
    journal.problem(Reason.OVERLOADED, "a")
    journal.problem(Reason.OVERLOADED, "b")
    journal.close()
    assert [entry.fields.get("EIC_HELD_BACK") for entry in listener.entries()] == [None, "1"]


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["7", "6", "4", "6"]),
        ("info", ["6", "4", "6"]),
        ("warning", ["4", "6"]),
        ("error", ["6"]),
    ],
)
def test_the_level_holds_back_everything_but_decisions(
    listener: Journald, level: str, written: list[str]
) -> None:
    journal = open_journal(level, socket_path=listener.path)
    journal.debug("detail")
    journal.info("started")
    journal.problem(Reason.OVERLOADED, "busy")
    journal.decision(GRANTED)
    journal.close()
    assert [entry.fields["PRIORITY"] for entry in listener.entries()] == written


def test_percent_signs_are_text(journal: Journal, listener: Journald) -> None:
    journal.info("100 %s done")
    assert listener.entry()["MESSAGE"] == "100 %s done"


def test_no_field_can_be_forged_through_a_value(journal: Journal, listener: Journald) -> None:
    forged = "x\nEIC_DECISION=granted\n_UID=0\nEIC_X\n\x04\0\0\0\0\0\0\0evil\n"
    journal.decision(
        dataclasses.replace(REFUSED, user=forged, caller=forged, detail=forged, instance=forged)
    )
    fields = listener.entry()
    assert fields["EIC_DECISION"] == "refused"
    assert not fields.keys() & {"_UID", "EIC_X"}
    assert fields["EIC_USER"].startswith(r"x\x0aEIC_DECISION=granted\x0a_UID=0")


@given(st.text())
def test_whatever_the_text_it_becomes_one_line_of_printable_ascii(text: str) -> None:
    shown = escape(text)
    assert all(" " <= character <= "~" for character in shown)
    assert escape(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ASCII, as it is: ~!", "plain ASCII, as it is: ~!"),
        ("line\nbreak\r\t\0", r"line\x0abreak\x0d\x09\x00"),
        ("\x1b[31mred\x7f\x9b", r"\x1b[31mred\x7f\x9b"),
        ("abc\u202etxt\u2066", r"abc\u202etxt\u2066"),
        ("\udc80\ud800", r"\udc80\ud800"),
        ("\u0430dmin \U000e0041", r"\u0430dmin \U000e0041"),
        (r"back\slash", r"back\slash"),
    ],
)
def test_escapes_name_the_code_point(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_no_control_format_or_surrogate_character_is_shown() -> None:
    dangerous = [
        chr(code)
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]
    assert len(dangerous) > 2000
    assert all(escape(character).startswith("\\") for character in dangerous)


def test_text_too_long_is_cut_and_says_so() -> None:
    assert escape("x" * 2048) == "x" * 2048
    assert len(escape("x" * 5000)) == 2048
    assert escape("x" * 5000).endswith("xxx... (5000 characters)")
    assert len(escape("\n" * 1000)) == 2048


def test_an_entry_too_big_for_a_datagram_goes_by_sealed_memfd(
    journal: Journal, listener: Journald, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = journal._output
    assert isinstance(output, outputs.JournaldOutput)
    output._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # 4608, or so
    caller = "arn:" + "x" * 2000
    journal.decision(dataclasses.replace(GRANTED, caller=caller, request="y" * 2000))
    ((fields, by_memfd),) = listener.entries()
    assert by_memfd
    assert fields["EIC_CALLER"] == caller


def test_a_full_queue_never_blocks_and_what_is_lost_is_reported(
    journal: Journal, listener: Journald, terminal: io.StringIO
) -> None:
    written = 0
    while not journal.lost:
        journal.decision(GRANTED)
        written += 1
    journal.decision(GRANTED)
    assert journal.lost == 2
    assert len(listener.entries()) == written - 1
    journal.decision(GRANTED)
    journal.decision(GRANTED)
    first, report, second = (entry.fields for entry in listener.entries())
    assert report["MESSAGE"] == "2 entries were lost since this process began"
    assert (report["EIC_LOST"], report["PRIORITY"]) == ("2", "4")
    assert first == second
    assert not terminal.getvalue()


def test_a_restarted_journald_gets_the_next_entry(
    journal: Journal, listener: Journald, tmp_path: Path, terminal: io.StringIO
) -> None:
    journal.info("before")
    listener.path.unlink()
    journal.info("between")
    with journald(tmp_path) as restarted:
        journal.info("after")
        assert restarted.entry()["MESSAGE"] == "after"
    assert terminal.getvalue() == "eic-agent: between\n"
    assert journal.lost == 0


def test_without_a_journal_every_entry_is_one_line_on_stderr(
    tmp_path: Path, terminal: io.StringIO
) -> None:
    journal = open_journal(socket_path=tmp_path / "absent", stderr=terminal)
    journal.decision(dataclasses.replace(REFUSED, user="b\nb", latency_us=7, detail="\x1b[2J"))
    journal.info("text")
    journal.close()
    assert terminal.getvalue() == (
        "eic-agent: refused SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU for b\\x0ab: "
        "expired: \\x1b[2J "
        "EIC_DECISION=refused EIC_REASON=expired EIC_USER=b\\x0ab "
        "EIC_FINGERPRINT=SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU "
        "EIC_INSTANCE=i-0123456789abcdef0 EIC_EXPIRES=1738233660 EIC_LATENCY_US=7 "
        "EIC_SSHD_PID=4711\n"
        "eic-agent: text\n"
    )


def test_a_plain_file_in_the_place_of_the_socket_is_no_journal(
    tmp_path: Path, terminal: io.StringIO
) -> None:
    (tmp_path / "file").touch()
    open_journal(socket_path=tmp_path / "file", stderr=terminal).info("text")
    assert terminal.getvalue() == "eic-agent: text\n"


def test_an_entry_that_neither_journald_nor_stderr_takes_is_counted_as_lost(
    listener: Journald,
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    broken = os.fdopen(writer, "w")
    journal = open_journal(socket_path=listener.path, stderr=broken)
    listener.path.unlink()
    journal.info("nobody reads this")
    assert journal.lost == 1
    journal.close()
    with pytest.raises(BrokenPipeError):  # what the stream still holds
        broken.close()


def test_threads_share_a_journal(journal: Journal, listener: Journald) -> None:
    def write() -> None:
        for _ in range(20):
            journal.decision(GRANTED)
            journal.problem(Reason.OVERLOADED, "busy")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    received: list[Entry] = []
    while any(thread.is_alive() for thread in threads):
        received += listener.entries()
    received += listener.entries()
    ids = Counter(
        entry.fields["MESSAGE_ID"] for entry in received if "EIC_LOST" not in entry.fields
    )
    assert ids.total() + journal.lost == 4 * 20 + 1
    assert ids[entries.MESSAGE_ID_PROBLEM] <= 1


def test_the_parser_of_these_tests_reads_both_forms_of_a_field() -> None:
    payload = b"A=1=2\nB\n\x05\0\0\0\0\0\0\0a\nb=c\nC=\n"
    assert parse(payload) == {"A": "1=2", "B": "a\nb=c", "C": ""}
