"""Who got in, and how: each login that sshd accepted, joined with the agent's entry and CloudTrail.

`python -m eic_sandbox.logins DIRECTORY` prints one JSON object for each login on the instances
of a sandbox that keeps its files in that directory. The key's fingerprint joins sshd's line with
the agent's decision, and the request id joins that with CloudTrail's record.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eic_sandbox.cloudtrail import FILE as TRAIL
from eic_sandbox.guest import JOURNAL
from eic_sandbox.sshd import CLIENT

_ACCEPTED = re.compile(
    r"Accepted publickey for (?P<user>\S+) from (?P<address>\S+) port \d+ ssh2: "
    r"(?P<type>\S+) (?P<fingerprint>SHA256:\S+)"
    r"(?: ID (?P<id>.+) \(serial (?P<serial>\d+)\) CA \S+ (?P<ca>SHA256:\S+))?"
)
# At LogLevel VERBOSE; the file is the command where it was a command that gave the key.
_FOUND = re.compile(r"Accepted key \S+ (?P<fingerprint>SHA256:\S+) found at (?P<file>.+):\d+$")


def logins(directory: Path, trail: Path | None = None) -> Iterator[dict[str, Any]]:
    """Yield every login on every instance below a sandbox's directory."""
    records = _json_lines(trail or directory / TRAIL)
    by_request = {record["requestID"]: record for record in records}
    for instance in sorted(directory.glob("i-*")):
        granted = {
            (entry["EIC_USER"], entry["EIC_FINGERPRINT"]): entry
            for entry in _entries(instance)
            if entry.get("EIC_DECISION") == "granted"
        }
        found_at: dict[str, str] = {}
        for line in (instance / "sshd" / "sshd.log").read_text().splitlines():
            if match := _FOUND.match(line):
                found_at[match["fingerprint"]] = match["file"]
            elif match := _ACCEPTED.match(line):
                by_agent = CLIENT.name in found_at.get(match["fingerprint"], "")
                entry = granted.get((match["user"], match["fingerprint"]), {}) if by_agent else None
                yield _login(instance.name, match, entry, by_request)


def _login(
    instance: str,
    match: re.Match[str],
    entry: dict[str, str] | None,
    by_request: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    login: dict[str, Any] = {
        "instance": instance,
        "os_user": match["user"],
        "address": match["address"],
        "key_type": match["type"],
        "fingerprint": match["fingerprint"],
    }
    if match["ca"]:
        # For a certificate the fingerprint is that of the key it certifies.
        certificate = {"id": match["id"], "serial": int(match["serial"]), "ca": match["ca"]}
        return {**login, "by": "certificate", "certificate": certificate}
    if entry is None:
        return {**login, "by": "file"}
    return {
        **login,
        "by": "ec2-instance-connect",
        "principal": entry.get("EIC_CALLER"),
        "request": entry.get("EIC_REQUEST"),
        "cloudtrail": by_request.get(entry.get("EIC_REQUEST", "")),
    }


def _entries(instance: Path) -> Iterator[dict[str, str]]:
    """Yield the agent's entries: from the machine's journal, and from its standard error."""
    yield from _json_lines(instance / JOURNAL)
    log = instance / "sshd" / "agent.log"
    for line in log.read_text().splitlines():
        words = (word.partition("=") for word in _words(line))
        yield {name: value for name, _, value in words if name.startswith("EIC_")}


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        # Not an entry; what a library writes there may have any form.
        return []


def _json_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the logins of a sandbox."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="what --directory of `make sandbox` was")
    parser.add_argument("--log", type=Path, help="what --log of `make sandbox` was")
    args = parser.parse_args(argv)
    if not args.directory.is_dir():
        print(f"logins: there is no directory {args.directory}", file=sys.stderr)
        return 1
    for login in logins(args.directory, args.log):
        print(json.dumps(login))
    return 0


if __name__ == "__main__":
    sys.exit(main())
