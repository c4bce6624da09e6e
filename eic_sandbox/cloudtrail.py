"""A log of what was asked of EC2 Instance Connect, in the shape of CloudTrail's records."""

import datetime
import json
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eic_sandbox.iam import Principal

FILE = "cloudtrail.jsonl"
EVENT_SOURCE = "ec2-instance-connect.amazonaws.com"


@dataclass(frozen=True)
class Event:
    """One call; `resource` is its ARN, `error` code and message, `now` seconds since the epoch."""

    name: str
    now: float
    region: str
    request_id: str
    source_ip: str
    user_agent: str
    principal: Principal
    parameters: Mapping[str, object]
    response: Mapping[str, object] | None = None
    error: tuple[str, str] | None = None
    resource: tuple[str, str] | None = None

    def record(self) -> dict[str, object]:
        """The record as CloudTrail writes it, but for an event id that is random there too."""
        moment = datetime.datetime.fromtimestamp(int(self.now), datetime.timezone.utc)
        account = self.principal.account
        record: dict[str, object] = {
            "eventVersion": "1.08",
            "userIdentity": _identity(self.principal),
            "eventTime": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "eventSource": EVENT_SOURCE,
            "eventName": self.name,
            "awsRegion": self.region,
            "sourceIPAddress": self.source_ip,
            "userAgent": self.user_agent,
        }
        if self.error is not None:
            record["errorCode"], record["errorMessage"] = self.error
        record |= {
            "requestParameters": self.parameters,
            "responseElements": self.response,
            "requestID": self.request_id,
            "eventID": str(uuid.uuid4()),
            "readOnly": False,
        }
        if self.resource is not None:
            kind, arn = self.resource
            record["resources"] = [{"accountId": account, "type": kind, "ARN": arn}]
        record |= {
            "eventType": "AwsApiCall",
            "managementEvent": True,
            "recipientAccountId": account,
            "eventCategory": "Management",
        }
        return record


class Trail:
    """Appends records to a file, one JSON object a line. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.touch()

    def write(self, event: Event) -> None:
        """Append the record of one call."""
        line = json.dumps(event.record()) + "\n"
        with self._lock, self.path.open("a") as file:
            file.write(line)

    def records(self) -> list[dict[str, object]]:
        """Return every record so far, in order."""
        with self._lock, self.path.open() as file:
            return [json.loads(line) for line in file]


def _identity(principal: Principal) -> dict[str, object]:
    identity: dict[str, object] = {
        "type": "IAMUser",
        "principalId": principal.unique_id,
        "arn": principal.arn,
        "accountId": principal.account,
        "accessKeyId": principal.access_key_id,
    }
    if principal.kind == "user":
        identity["userName"] = principal.path.rpartition("/")[2]
    elif principal.kind == "assumed-role":
        role = principal.path.rpartition("/")[0]
        identity["type"] = "AssumedRole"
        identity["sessionContext"] = {
            "sessionIssuer": {
                "type": "Role",
                "principalId": principal.unique_id.partition(":")[0],
                "arn": f"arn:{principal.partition}:iam::{principal.account}:role/{role}",
                "accountId": principal.account,
                "userName": role,
            },
        }
    else:
        identity["type"] = "Root" if principal.kind == "root" else "Role"
    return identity
