"""CloudTrail's records of EC2 Instance Connect, joined with logins by the request id.

Read are files as CloudTrail delivers them, one object `{"Records": [...]}`, gzip or not, and files
of one record a line. Of each only pushes and tunnels are kept.
"""

import gzip
import json
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from eic_agent.errors import EicAgentError

EVENT_SOURCE = "ec2-instance-connect.amazonaws.com"
PUSH, TUNNEL = "SendSSHPublicKey", "OpenTunnel"
_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_LONGEST_TUNNEL_S = 3600
_CLOCKS_S = 60  # how far this machine's clock may be from CloudTrail's


class NoTrail(EicAgentError):
    """What is named holds no records of CloudTrail's; the text says where and what."""


@dataclass(slots=True)
class Record:
    """One call of the API; `time` in seconds since the epoch."""

    name: str
    time: int
    request: str
    principal: str
    source_ip: str
    user_agent: str
    event_id: str
    error: str
    user: str = ""
    instance: str = ""
    endpoint: str = ""
    lasts_s: int = _LONGEST_TUNNEL_S
    used: bool = False

    def data(self) -> dict[str, Any]:
        """Give it as JSON has it, beside a login."""
        return {
            "time": f"{datetime.fromtimestamp(self.time, timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
            "event_id": self.event_id or None,
            "source_ip": self.source_ip or None,
            "user_agent": self.user_agent or None,
            "principal": self.principal or None,
            "endpoint": self.endpoint or None,
        }


@dataclass(slots=True)
class Trail:
    """What CloudTrail recorded: pushes by their request id, tunnels by principal, in time."""

    pushes: dict[str, Record] = field(default_factory=dict)
    tunnels: dict[str, list[Record]] = field(default_factory=dict)

    def explain(self, request: str, principal: str, time: float) -> dict[str, Any]:
        """Give what is recorded of a login: its push, and the tunnel that it may have come through.

        A tunnel has no id that the instance sees. It is the principal's last one that was opened
        before the login and may still have been open.
        """
        push = self.pushes.get(request)
        tunnel = None
        for candidate in self.tunnels.get(principal, []):
            since_s = time - candidate.time
            if -_CLOCKS_S <= since_s <= candidate.lasts_s and not candidate.error:
                tunnel = candidate
        for record in (push, tunnel):
            if record is not None:
                record.used = True
        return {
            "push": push.data() if push else None,
            "tunnel": tunnel.data() if tunnel else None,
        }

    def unused(self, instances: Collection[str], begin: float, end: float) -> list[Record]:
        """Give pushes to these instances, or all if there are none, that no login came of.

        Those that failed are not among them, nor those not between these seconds since the epoch.
        """
        found = (
            push
            for push in self.pushes.values()
            if not push.used
            and not push.error
            and begin <= push.time <= end
            and (push.instance in instances or not instances)
        )
        return sorted(found, key=lambda push: push.time)


def load(paths: Iterable[Path]) -> Trail:
    """Read files, and all below directories. Raises NoTrail."""
    trail, found = Trail(), 0
    for path in paths:
        for file in _files(path):
            for record in _records(file):
                found += 1
                _keep(trail, record)
    if not found:
        raise NoTrail("there are no records of CloudTrail's in what --cloudtrail names")
    for tunnels in trail.tunnels.values():
        tunnels.sort(key=lambda record: record.time)
    return trail


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(f for f in path.rglob("*") if f.name.endswith(_SUFFIXES) and f.is_file())
    else:
        yield path


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Give the records of one file. Digest files lie beside them, and are not records."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        try:
            documents = [json.loads(content)]
        except json.JSONDecodeError:
            documents = [json.loads(line) for line in content.splitlines() if line.strip()]
    except gzip.BadGzipFile as error:
        raise NoTrail(f"{path}: not a file of CloudTrail's: {error}") from None
    except OSError as error:
        raise NoTrail(f"{path}: CloudTrail's records cannot be read: {error.strerror}") from None
    except (EOFError, ValueError, zlib.error) as error:
        raise NoTrail(f"{path}: not a file of CloudTrail's: {error}") from None
    for document in documents:
        if not isinstance(document, dict):
            raise NoTrail(f"{path}: not a file of CloudTrail's: no object but {type(document)}")
        records = document.get("Records", [document] if "eventSource" in document else [])
        yield from (record for record in records if isinstance(record, dict))


def _keep(trail: Trail, raw: dict[str, Any]) -> None:
    name = raw.get("eventName")
    if raw.get("eventSource") != EVENT_SOURCE or name not in (PUSH, TUNNEL):
        return
    parameters = _table(raw, "requestParameters")
    record = Record(
        name,
        seconds(_text(raw, "eventTime")),
        _text(raw, "requestID"),
        _text(_table(raw, "userIdentity"), "arn"),
        _text(raw, "sourceIPAddress"),
        _text(raw, "userAgent"),
        _text(raw, "eventID"),
        _text(raw, "errorCode"),
        _text(parameters, "osUser") or _text(parameters, "instanceOSUser"),
        _text(parameters, "instanceId"),
        _text(parameters, "instanceConnectEndpointId"),
    )
    if name == PUSH:
        trail.pushes[record.request] = record
        return
    lasts = str(parameters.get("maxTunnelDuration", ""))
    if lasts.isdigit() and len(lasts) < 6:
        record.lasts_s = int(lasts)
    trail.tunnels.setdefault(record.principal, []).append(record)


def _table(raw: dict[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def _text(raw: dict[str, Any], name: str) -> str:
    value = raw.get(name)
    return value if isinstance(value, str) else ""


def seconds(text: str) -> int:
    """Read a time of CloudTrail's; 0 where it is none."""
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return 0
    return int(moment.timestamp())
