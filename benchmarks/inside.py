"""What a warm lookup does inside the agent, step by step; run by path with the agent's interpreter.

`inside.py IMPORT_PATH CONFIG USER FINGERPRINT LOOKUPS` prints, as JSON, seconds for each part: the
median over so many lookups in this process, which asks the same metadata service.
"""

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

sys.path += sys.argv[1].split(":")

from eic_agent.configuration import config
from eic_agent.journal.writer import open_journal
from eic_agent.lookup.authorizer import Authorizer, Counters, Rules
from eic_agent.lookup.question import Question
from eic_agent.lookup.users import UserDatabase
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import Deadline
from eic_agent.metadata.endpoints import endpoint_addresses, url_of

# The last thing that the trace hears of each part, by step number (docs/lookup.md).
_PARTS = {4: "keys fetched", 6: "blocks parsed", 5: "checks", 7: "signature"}


class Stopwatch:
    """A trace that takes the time from one finding to the next."""

    def __init__(self) -> None:
        self.parts: defaultdict[str, list[float]] = defaultdict(list)
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._last = time.perf_counter()

    def take(self, part: str) -> None:
        """Book the time since the last one."""
        now = time.perf_counter()
        self.parts[part].append(now - self._last)
        self._last = now

    def __call__(self, step: int, outcome: str, **facts: object) -> None:
        """Book the time for a part that has ended."""
        if step in _PARTS:
            self.take(_PARTS[step])


def main(path: str, user: str, fingerprint: str, lookups: int) -> None:
    """Measure and print."""
    settings = config.load(Path(path), must_exist=True).config
    deadline_s = settings.imds.deadline_s
    watch = Stopwatch()
    question = Question(user, fingerprint)
    with contextlib.closing(open_journal()) as journal, ThreadPoolExecutor(4) as workers:
        metadata = MetadataClient(settings.imds.endpoint, settings.imds.timeout_s)
        rules = Rules(settings.policy, settings.trust, settings.identity.sysfs_root, deadline_s)
        authorizer = Authorizer(
            metadata, rules, journal, time.time, workers, Counters(), UserDatabase()
        )
        for number in range(lookups + 1):
            if number == 1:
                watch.parts.clear()
            # As between logins, when caches hold what others have used.
            subprocess.run([sys.executable, "-ISc", "pass"], check=True)
            watch.start()
            deadline = Deadline.after(deadline_s)
            answer = authorizer.lookup(question, deadline, watch)
            watch.take("policy, grant")
            assert answer.lines
            authorizer.record(question, answer, deadline)
            watch.take("journal")
            subprocess.run([sys.executable, "-ISc", "pass"], check=True)
            watch.start()
            metadata.active_keys(user, Deadline.after(deadline_s))
            watch.take("request")
        metadata.close()
    url = url_of(endpoint_addresses(settings.imds.endpoint)[0])
    for exchange in round_trips(url, user, lookups):
        subprocess.run([sys.executable, "-ISc", "pass"], check=True)
        watch.start()
        exchange()
        watch.take("round trip")
    print(json.dumps({part: statistics.median(times) for part, times in watch.parts.items()}))


def round_trips(url: str, user: str, count: int) -> Iterator[Callable[[], bytes]]:
    """Yield so often what asks for the keys over one connection, with no HTTP library between."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port or 80)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def exchange(method: str, path: str, header: str) -> bytes:
            request = f"{method} {path} HTTP/1.1\r\nHost: {where.netloc}\r\n{header}\r\n\r\n"
            connection.sendall(request.encode())
            received = connection.recv(65536)
            while b"\r\n\r\n" not in received:
                received += connection.recv(65536)
            head, _, body = received.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            while len(body) < length:
                body += connection.recv(65536)
            return body

        ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60"
        token = exchange("PUT", "/latest/api/token", ttl).decode()
        path = f"/latest/meta-data/managed-ssh-keys/active-keys/{user}/"
        for _ in range(count):
            yield lambda: exchange("GET", path, f"X-aws-ec2-metadata-token: {token}")


if __name__ == "__main__":
    main(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
