"""Entries as a journald, or a terminal where there is none, receives them."""

import dataclasses
import io
import itertools
import os
import re
import socket
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eic_agent.errors import Reason
from eic_agent.journal import entries, kept, outputs, refusals, writer
from eic_agent.journal.entries import Decision, escape
from eic_agent.journal.writer import Journal, open_journal
from eic_sandbox.journald import Entry, Journald, journald, parse

T = TypeVar("T")

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
    client_pid=4712,
    client_uid=990,
    decided_at=1738233600.25,
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


def grant(
    journal: Journal, within_s: float = 0, *, required: bool = False, **changed: object
) -> bool:
    decision = dataclasses.replace(GRANTED, **changed)  # type: ignore[arg-type] # names are known
    return journal.grant(decision, within_s, required=required)


def fill(listener: Journald) -> int:
    """Fill the queue, as any process of this machine can; how many datagrams it holds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as stranger:
        for sent in itertools.count():
            try:
                stranger.sendto(b"MESSAGE=flood\n", str(listener.path))
            except BlockingIOError:
                return sent
    raise AssertionError


def ours(listener: Journald) -> list[dict[str, str]]:
    """What waits and is no flood."""
    fields = (entry.fields for entry in listener.entries())
    return [found for found in fields if found["MESSAGE"] != "flood"]


def eventually(condition: Callable[[], T]) -> T:
    until = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def all_kept(journal: Journal, listener: Journald) -> list[dict[str, str]]:
    """What the journal kept, once it has been written."""
    received: list[dict[str, str]] = []

    def nothing_waits() -> bool:
        received.extend(ours(listener))
        return not journal.waiting

    eventually(nothing_waits)
    return received + ours(listener)


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
    assert grant(journal)
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
        "EIC_CLIENT_PID": "4712",
        "EIC_CLIENT_UID": "990",
    }


def test_a_refused_key_is_a_notice_with_its_reason_and_no_field_for_what_is_not_known(
    journal: Journal, listener: Journald
) -> None:
    journal.refusal(REFUSED)
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


def test_ids_of_messages_are_four_of_128_bits() -> None:
    ids = {value for name, value in vars(entries).items() if name.startswith("MESSAGE_ID_")}
    assert len(ids) == 4
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
    assert grant(journal)
    journal.close()
    assert [entry.fields["PRIORITY"] for entry in listener.entries()] == written


def test_percent_signs_are_text(journal: Journal, listener: Journald) -> None:
    journal.info("100 %s done")
    assert listener.entry()["MESSAGE"] == "100 %s done"


def test_no_field_can_be_forged_through_a_value(journal: Journal, listener: Journald) -> None:
    forged = "x\nEIC_DECISION=granted\n_UID=0\nEIC_X\n\x04\0\0\0\0\0\0\0evil\n"
    journal.refusal(
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
    assert grant(journal, caller=caller, request="y" * 2000)
    ((fields, by_memfd),) = listener.entries()
    assert by_memfd
    assert fields["EIC_CALLER"] == caller


def test_what_is_no_decision_never_waits_and_what_is_lost_is_reported(
    journal: Journal, listener: Journald, terminal: io.StringIO
) -> None:
    fill(listener)
    journal.info("first")
    journal.info("second")
    assert journal.lost == 2
    assert ours(listener) == []
    journal.info("third")
    third, report = ours(listener)
    assert third["MESSAGE"] == "third"
    assert report["MESSAGE"] == "2 entries were lost since this process began"
    assert (report["EIC_LOST"], report["PRIORITY"]) == ("2", "4")
    assert not terminal.getvalue()


def test_a_grant_waits_for_a_place_in_the_queue_and_is_not_late(
    journal: Journal, listener: Journald
) -> None:
    fill(listener)
    results: list[bool] = []
    waiting = threading.Thread(target=lambda: results.append(grant(journal, 30, required=True)))
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()
    received = ours(listener)
    waiting.join(30)
    received += ours(listener)
    assert results == [True]
    (fields,) = received
    assert fields["EIC_DECISION"] == "granted"
    assert not fields.keys() & {"EIC_LATE", "EIC_DECIDED_AT"}


def test_a_grant_that_must_be_recorded_is_refused_where_the_queue_stays_full(
    journal: Journal, listener: Journald
) -> None:
    fill(listener)
    assert not grant(journal, 0.05, required=True)
    assert not journal.waiting
    assert ours(listener) == []


def test_a_grant_that_must_be_recorded_is_refused_without_journald(
    journal: Journal, listener: Journald, tmp_path: Path
) -> None:
    listener.path.unlink()
    assert not grant(journal, 1, required=True)
    on_stderr = open_journal(socket_path=tmp_path / "absent", stderr=io.StringIO())
    assert not grant(on_stderr, 1, required=True)


def test_a_grant_that_must_be_recorded_is_refused_where_nobody_believes_the_writer(
    listener: Journald,
) -> None:
    journal = open_journal(socket_path=listener.path, believed=False)
    assert not grant(journal, required=True)
    assert grant(journal)
    journal.close()


def test_another_grant_is_kept_and_written_late_with_the_time_of_the_decision(
    journal: Journal, listener: Journald
) -> None:
    fill(listener)
    assert grant(journal, 0.05)
    assert grant(journal)
    assert journal.waiting == 1
    fields = all_kept(journal, listener)[0]
    assert fields["EIC_DECISION"] == "granted"
    assert fields["EIC_DECIDED_AT"] == "1738233600.250000"
    assert float(fields["EIC_LATE"]) > 0
    assert grant(journal)
    assert "EIC_LATE" not in listener.entry()


def test_a_grant_without_journald_is_written_when_it_is_back(
    journal: Journal, listener: Journald, tmp_path: Path
) -> None:
    listener.path.unlink()
    assert grant(journal)
    with journald(tmp_path) as restarted:
        (fields,) = eventually(lambda: ours(restarted))
    assert "EIC_LATE" in fields


def test_what_one_client_can_make_us_keep_is_bounded_and_leaves_room_for_others(
    journal: Journal, listener: Journald
) -> None:
    fill(listener)
    granted = [grant(journal, client_uid=65534, request=str(i)) for i in range(300)]
    assert granted == [True] * kept.MOST_OF_ONE + [False] * (300 - kept.MOST_OF_ONE)
    assert grant(journal)
    assert grant(journal, client_uid=65534, request="0"), "this one is kept already"
    written = all_kept(journal, listener)
    # What comes again while its entry is being written gets another.
    assert len(written) in (kept.MOST_OF_ONE + 1, kept.MOST_OF_ONE + 2)
    assert sum(int(fields.get("EIC_TIMES", 1)) for fields in written) == kept.MOST_OF_ONE + 2
    assert grant(journal, client_uid=65534, request="new"), "there is room again"


def test_refusals_of_a_flood_are_counted_by_reason_and_reported(
    journal: Journal, listener: Journald, clock: Clock
) -> None:
    written: list[dict[str, str]] = []
    for number in range(refusals.BURST + 50):
        reason = Reason.BAD_SIGNATURE if number % 5 else Reason.EXPIRED
        journal.refusal(dataclasses.replace(REFUSED, reason=reason))
        written += ours(listener)
    assert len(written) == refusals.BURST
    assert grant(journal), "grants have no limit"
    assert len(ours(listener)) == 1
    clock.now += 9
    journal.tick()
    assert ours(listener) == []
    assert journal.due_in() == 1
    clock.now += 1
    journal.tick()
    (report,) = ours(listener)
    assert report["EIC_DROPPED"] == "50"
    assert report["EIC_DROPPED_REASONS"] == "bad-signature 40, expired 10"
    assert "50 refusals" in report["MESSAGE"]
    assert journal.due_in() is None
    journal.refusal(REFUSED)
    assert len(ours(listener)) == 1, "the limit lets some through again"


def test_refusals_that_a_full_queue_does_not_take_are_kept_then_counted(
    journal: Journal, listener: Journald
) -> None:
    fill(listener)
    for _ in range(100):
        journal.refusal(REFUSED)
    journal.undelivered(GRANTED)
    written = all_kept(journal, listener)
    assert len([fields for fields in written if "EIC_REASON" in fields]) == 64
    assert [fields["MESSAGE_ID"] for fields in written[64:]] == [entries.MESSAGE_ID_UNDELIVERED]
    journal.close()
    (report,) = ours(listener)
    assert report["EIC_DROPPED_REASONS"] == "expired 36"


def test_a_grant_that_was_not_delivered_has_a_second_entry(
    journal: Journal, listener: Journald
) -> None:
    journal.undelivered(GRANTED)
    fields = listener.entry()
    assert fields["MESSAGE_ID"] == entries.MESSAGE_ID_UNDELIVERED
    assert (fields["EIC_UNDELIVERED"], fields["EIC_REQUEST"]) == ("1", GRANTED.request)
    assert "EIC_DECISION" not in fields


def test_what_journald_never_takes_is_on_stderr_in_the_end(
    listener: Journald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLOSE_S", 0.1)
    terminal = io.StringIO()
    journal = open_journal(socket_path=listener.path, stderr=terminal)
    fill(listener)
    assert grant(journal)
    journal.close()
    assert "EIC_DECISION=granted" in terminal.getvalue()
    assert "EIC_LATE=" in terminal.getvalue()
    assert journal.lost == 1


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
    journal.refusal(dataclasses.replace(REFUSED, user="b\nb", latency_us=7, detail="\x1b[2J"))
    journal.info("text")
    journal.close()
    assert terminal.getvalue() == (
        "eic-agent: refused SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU for b\\x0ab: "
        "expired: \\x1b[2J "
        "EIC_DECISION=refused EIC_REASON=expired EIC_USER=b\\x0ab "
        "EIC_FINGERPRINT=SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU "
        "EIC_INSTANCE=i-0123456789abcdef0 EIC_EXPIRES=1738233660 EIC_LATENCY_US=7 "
        "EIC_SSHD_PID=4711 EIC_CLIENT_PID=4712 EIC_CLIENT_UID=990\n"
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
            assert grant(journal)
            journal.problem(Reason.OVERLOADED, "busy")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    received: list[Entry] = []
    while any(thread.is_alive() for thread in threads):
        received += listener.entries()
    everything = [entry.fields for entry in received] + all_kept(journal, listener)
    grants = [fields for fields in everything if "EIC_DECISION" in fields]
    assert sum(int(fields.get("EIC_TIMES", 1)) for fields in grants) == 4 * 20
    assert len([f for f in everything if f.get("EIC_REASON") == "overloaded"]) <= 1


def test_the_parser_of_these_tests_reads_both_forms_of_a_field() -> None:
    payload = b"A=1=2\nB\n\x05\0\0\0\0\0\0\0a\nb=c\nC=\n"
    assert parse(payload) == {"A": "1=2", "B": "a\nb=c", "C": ""}
