"""`eic-agent audit` as it is run, on journal files as journald and its tools write them."""

import dataclasses
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eic_agent.reports import audit
from eic_agent.reports.audit import Options, Screen
from eic_agent.reports.cloudtrail import NoTrail
from eic_agent.reports.journalctl import NoJournal
from eic_sandbox.cloudtrail import Event, Trail
from eic_sandbox.iam import Principal
from tests.reports.journals import (
    AGENT_UID,
    CALLER,
    KEY,
    OTHER_KEY,
    RECORDED,
    USER_UID,
    Writer,
    export,
    journal,
)

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/audit.schema.json").read_text())
NOTHING = "eic-agent: nothing was found that fits\n"
NOW = 1_795_100_000.0
REQUEST = "2bcc936c-8a83-4096-9000-000000000001"
INSTANCE = "i-0123456789abcdef0"


def run(directory: Path, *, width: int | None = None, **options: Any) -> str:
    """What the command prints."""
    out, err = io.StringIO(), io.StringIO()
    asked = Options(directory=directory, **options)
    audit.run(asked, Screen(out, err, width), None, NOW)
    return out.getvalue() + err.getvalue()


def data(directory: Path, **options: Any) -> list[dict[str, Any]]:
    text = run(directory, json=True, **options).replace(NOTHING, "")
    found = [json.loads(line) for line in text.splitlines()]
    for row in found:
        check(row, SCHEMA)
    return found


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "null": (type(None),),
}


def check(value: Any, schema: dict[str, Any]) -> None:
    """Hold a value to what of JSON Schema our schema uses."""
    schema = schema | (
        SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else {}
    )
    assert value in schema.get("enum", [value])
    kinds = schema.get("type", list(_TYPES))
    names = [kinds] if isinstance(kinds, str) else kinds
    assert isinstance(value, tuple(t for name in names for t in _TYPES[name])), (value, names)
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= value.keys()
        assert value.keys() <= schema["properties"].keys()
        for name, one in value.items():
            check(one, schema["properties"][name])


def a_day() -> Writer:
    """One of each: a login, another key, a refusal, a key nobody proved, a forgery, a reboot."""
    writer = Writer()
    writer.login(200)
    writer.accepted(210, OTHER_KEY)
    writer.later(60)
    writer.closed(210)
    writer.agent("refused", 220)
    writer.sshd(220, "Connection closed by authenticating user alice 192.0.2.9 port 99 [preauth]")
    writer.agent("granted", 230)
    writer.sshd(230, "Connection closed by authenticating user alice 192.0.2.9 port 98 [preauth]")
    writer.agent("granted", 240, _UID=str(USER_UID), _SYSTEMD_UNIT="session-3.scope")
    writer.accepted(240, _UID=str(USER_UID))
    writer.agent("granted", 250, EIC_CALLER="arn:aws:iam::123456789012:user/bob", EIC_USER="bob")
    writer.accepted(250, user="bob")
    writer.reboot()
    writer.later(300)
    # The fallback runs within sshd's own unit.
    writer.agent("granted", 200, _SYSTEMD_UNIT="ssh.service")
    writer.accepted(200)
    return writer


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return journal(tmp_path_factory.mktemp("day") / "journal", export(a_day().entries))


def test_one_row_a_login(day: Path) -> None:
    found = data(day)
    assert [(row["kind"], row["pid"], row["user"], row["end"]) for row in found] == [
        ("login", 200, "alice", "closed"),
        ("login", 250, "bob", "reboot"),
        ("login", 200, "alice", "unknown"),
    ]


def test_what_else_is_shown_when_it_is_asked_for(day: Path) -> None:
    assert [row["kind"] for row in data(day, all=True)].count("other-login") == 1
    kinds = [row["kind"] for row in data(day, refused=True)]
    assert kinds == ["login", "refused", "unproved", "login", "login"]


@pytest.mark.parametrize(
    ("options", "pids"),
    [
        ({"user": "bob"}, [250]),
        ({"user": "b"}, []),
        ({"caller": "*:user/*"}, [250]),
        ({"caller": "user/"}, [250]),
        ({"caller": "user/*"}, []),
        ({"caller": "Admin"}, [200, 200]),
    ],
)
def test_users_and_callers(day: Path, options: dict[str, str], pids: list[int]) -> None:
    assert [row["pid"] for row in data(day, **options)] == pids


def test_times_are_journalctls(day: Path) -> None:
    first, *_, last = data(day)
    second = f"{first['time'][:19]}Z".replace("T", " ").replace("Z", " UTC")
    assert [row["pid"] for row in data(day, until=second)] == [200]
    later = f"{last['time'][:19]}Z".replace("T", " ").replace("Z", " UTC")
    (row,) = data(day, since=later)
    assert row == last, "its grant was written before"
    with pytest.raises(NoJournal, match="soon"):
        run(day, since="soon")


def test_rows_are_lines_of_columns(day: Path) -> None:
    heading, *lines = run(day, all=True, refused=True).splitlines()
    assert heading.split() == [
        *("TIME", "USER", "FROM", "LASTED", "RESULT", "PRINCIPAL", "REQUEST", "KEY"),
    ]
    assert len(lines) == 6
    start = heading.index("PRINCIPAL")
    assert lines[0][start:].startswith(CALLER)
    assert lines[1][start:].startswith("not through Instance Connect (publickey)")
    assert "refused: expired" in lines[2]
    assert "0:01:01" in lines[1]


def test_a_narrow_terminal_gets_lines_that_fit_it(day: Path) -> None:
    text = run(day, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert CALLER in text
    assert KEY in text
    assert REQUEST in text


def test_nothing_reaches_a_terminal_unescaped(tmp_path: Path) -> None:
    writer = Writer()
    writer.agent("granted", 200, EIC_CALLER="arn\x1b]0;x\x07", EIC_USER="al\nice\u202e")
    writer.accepted(200)
    text = run(journal(tmp_path / "journal", export(writer.entries)))
    assert "\x1b" not in text
    assert text.isascii()
    assert len(text.splitlines()) == 2


def test_a_rotation_in_the_middle_of_a_login_changes_nothing(tmp_path: Path) -> None:
    """Each entry in a file of its own."""
    entries = a_day().entries
    whole = journal(tmp_path / "whole", export(entries))
    pieces = tmp_path / "pieces"
    for number, entry in enumerate(entries):
        journal(tmp_path / str(number), export([entry]))
        pieces.mkdir(exist_ok=True)
        (file,) = (tmp_path / str(number)).iterdir()
        file.rename(pieces / f"system@{number}.journal")
    assert data(pieces, all=True, refused=True) == data(whole, all=True, refused=True)


def test_the_users_of_two_machines_are_told_apart(tmp_path: Path) -> None:
    """What is the agent's user id on one machine is a person's on another."""
    ours, theirs = Writer(), Writer(boot="d" * 32)
    ours.login(200)
    theirs.agent("granted", 300, OTHER_KEY, _UID="995")
    theirs.agent("granted", 301, _UID=str(AGENT_UID), _SYSTEMD_UNIT="session-3.scope")
    theirs.accepted(301)
    for entry in theirs.entries:
        entry["_MACHINE_ID"] = "e" * 32
    directory = journal(tmp_path / "journal", export([*ours.entries, *theirs.entries]))
    found = data(directory, all=True)
    assert {(row["machine"][0], row["kind"]) for row in found} == {
        ("a", "login"),
        ("e", "other-login"),
    }


@pytest.mark.parametrize("release", ["debian12", "debian13"])
def test_recorded_journals_are_read_by_the_command(release: str, tmp_path: Path) -> None:
    directory = journal(tmp_path / "journal", (RECORDED / f"{release}.export").read_bytes())
    command = [sys.executable, "-m", "eic_agent", "audit", "--all", f"--directory={directory}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert sum(CALLER in line for line in lines) == 3


def test_that_nothing_was_found_is_said(day: Path) -> None:
    assert run(day, user="nobody") == NOTHING


def test_what_journald_dropped_is_said(tmp_path: Path) -> None:
    writer = Writer()
    writer.write(
        _TRANSPORT="driver",
        MESSAGE_ID="a596d6fe7bfa4994828e72309e95d61e",
        MESSAGE="Suppressed 54 messages from ssh.service",
    )
    text = run(journal(tmp_path / "journal", export(writer.entries)))
    assert "entries are missing" in text
    assert "Suppressed 54 messages from ssh.service" in text


def trail(directory: Path, *events: dict[str, Any]) -> Path:
    """Records as CloudTrail delivers them: gzip, in folders by date, digests beside them."""
    folder = directory / "AWSLogs/123456789012/CloudTrail/us-east-1/2026/11/18"
    folder.mkdir(parents=True)
    (folder / "a.json.gz").write_bytes(gzip.compress(json.dumps({"Records": events}).encode()))
    digest = {"awsAccountId": "123456789012", "logFiles": []}
    (folder / "digest.json.gz").write_bytes(gzip.compress(json.dumps(digest).encode()))
    return directory


def record(name: str, request: str, time: str = "2026-11-18T11:06:40Z", **other: Any) -> Any:
    return {
        "eventSource": "ec2-instance-connect.amazonaws.com",
        "eventName": name,
        "eventTime": time,
        "requestID": request,
        "eventID": f"event of {request}",
        "sourceIPAddress": "198.51.100.4",
        "userAgent": "aws-cli/2",
        "userIdentity": {"arn": CALLER},
        "requestParameters": {"instanceId": INSTANCE, "osUser": "alice"},
    } | other


def test_cloudtrail_explains_logins_and_tells_of_pushes_that_nobody_used(
    day: Path, tmp_path: Path
) -> None:
    tunnel = {"instanceConnectEndpointId": "eice-1", "maxTunnelDuration": "3600"}
    directory = trail(
        tmp_path / "trail",
        record("SendSSHPublicKey", REQUEST),
        record("SendSSHPublicKey", "unused", "2026-11-18T11:07:40Z"),
        record("SendSSHPublicKey", "failed", "2026-11-18T11:07:40Z", errorCode="AuthException"),
        record("SendSSHPublicKey", "long before", "2026-11-17T11:06:40Z"),
        record(
            "SendSSHPublicKey",
            "elsewhere",
            "2026-11-18T11:07:40Z",
            requestParameters={"instanceId": "i-0fedcba9876543210", "osUser": "alice"},
        ),
        record("OpenTunnel", "tunnel", requestParameters=tunnel),
        record("RunInstances", "no concern", eventSource="ec2.amazonaws.com"),
    )
    found = data(day, cloudtrail=(directory,))
    first, bobs, _, unused = found
    assert first["cloudtrail"]["push"]["source_ip"] == "198.51.100.4"
    assert first["cloudtrail"]["tunnel"]["endpoint"] == "eice-1"
    assert bobs["cloudtrail"]["tunnel"] is None, "another principal's tunnel"
    assert (unused["kind"], unused["request"]) == ("unused-push", "unused")

    text = run(day, cloudtrail=(directory,))
    assert "login, by tunnel" in text
    assert f"{CALLER} from 198.51.100.4" in text
    assert "unused push" in text


def test_the_sandboxs_log_is_a_trail(day: Path, tmp_path: Path) -> None:
    """It is of CloudTrail's shape, one record a line, pushes and tunnels of one principal."""
    log = Trail(tmp_path / "cloudtrail.jsonl")
    push = Event(
        name="SendSSHPublicKey",
        now=1_795_000_000.0,
        region="us-east-1",
        request_id=REQUEST,
        source_ip="198.51.100.4",
        user_agent="aws-cli/2",
        principal=Principal(CALLER, "ASIAEXAMPLE", "secret"),
        parameters={"instanceId": INSTANCE, "osUser": "alice", "SSHKey": {"publicKey": "x"}},
        response={"requestId": REQUEST, "success": True},
    )
    opened = {"instanceConnectEndpointId": "eice-1", "maxTunnelDuration": "3600"}
    log.write(push)
    log.write(dataclasses.replace(push, name="OpenTunnel", request_id="t", parameters=opened))
    first, *_ = data(day, cloudtrail=(log.path,))
    assert first["cloudtrail"]["push"]["principal"] == CALLER
    assert first["cloudtrail"]["tunnel"]["endpoint"] == "eice-1"


def test_a_login_that_no_record_explains_says_so(day: Path, tmp_path: Path) -> None:
    directory = trail(tmp_path / "trail", record("SendSSHPublicKey", "another"))
    assert all(r["cloudtrail"]["push"] is None for r in data(day, cloudtrail=(directory,))[:3])
    assert "login, no record" in run(day, cloudtrail=(directory,))


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\x1f\x8bnot gzip", b"\xff\xfe"])
def test_what_is_no_trail_is_named(day: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(NoTrail, match="CloudTrail"):
        run(day, cloudtrail=(tmp_path,))
