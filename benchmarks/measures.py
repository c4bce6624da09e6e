"""What is measured: one function for each table."""

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import metadata
from benchmarks.agents import Activated, Agent, Resident, answerer
from benchmarks.launched import Launcher
from benchmarks.load import Load, LoadReport
from benchmarks.logins import Sshd, asking
from benchmarks.machine import (
    CLIENT,
    KEY_LIFETIME_S,
    PYTHON,
    USERS,
    BenchError,
    Machine,
    import_path,
)
from benchmarks.rounds import Contestant, run_rounds
from eic_sandbox.simulator import SSHKey, new_key

CROWD = 200
STARTED = "agent started by the lookup"
_INSIDE = Path(__file__).with_name("inside.py")
_LEAVE = "posix._exit(main())"


@dataclass
class Bench:
    """Everything that the measures need; `rounds` says how often each contestant runs."""

    machine: Machine
    launcher: Launcher
    warm: Resident
    cold: Activated
    rounds: int
    reference: Path | None
    go_peer: Path | None = None
    key: SSHKey = field(default_factory=new_key)
    lines: dict[str, list[str]] = field(default_factory=dict)
    _pushed_at: float = float("-inf")

    def __post_init__(self) -> None:
        for number, user in USERS.items():
            others = [new_key().line for _ in range(number - 1)]
            self.lines[user] = [*others, self.key.line] if number else []

    def push(self, user: str, lines: list[str]) -> None:
        """Let a user have these keys from now on."""
        self.lines[user] = lines
        self._pushed_at = float("-inf")
        self.refresh()

    def refresh(self) -> None:
        """Push every key anew before the first of them expires."""
        if time.monotonic() - self._pushed_at < KEY_LIFETIME_S / 2:
            return
        self._pushed_at = time.monotonic()
        for user, lines in self.lines.items():
            if lines:
                self.machine.metadata.do(metadata.push, user, lines, KEY_LIFETIME_S)

    def run(self, contestants: Sequence[Contestant], rounds: int) -> None:
        """Let them run in turn."""
        run_rounds(self.machine, self.launcher, contestants, rounds, self.refresh)

    def bare(self, runs_in_a_round: int = 5) -> Contestant:
        """What starting an interpreter costs."""
        argv = [PYTHON, "-I", "-S", "-c", "pass"]
        return Contestant("bare interpreter", argv, runs_in_a_round=runs_in_a_round)

    def lookup(self, name: str, keys: int, way: str, runs_in_a_round: int = 1) -> Contestant:
        """Look up the key of a user who has so many; `way`: warm, cold, one-process, reference."""
        user, fingerprint = USERS[keys], self.key.fingerprint
        words: Sequence[str]
        if way == "warm":
            words = self.machine.client(self.warm.path, user, fingerprint)
        elif way == "cold":
            words = self.machine.client(self.cold.path, user, fingerprint)
        elif way == "one-process":
            words = [str(self.machine.agent), "authorized-keys", user, fingerprint]
        else:
            words = ["/bin/sh", str(self.reference), user, fingerprint]
        agents: dict[str, Agent] = {"warm": self.warm, "cold": self.cold}
        prints = frozenset({self.key.line} if keys else ())
        may_fail = way == "reference"
        return Contestant(name, words, prints, agents.get(way), runs_in_a_round, may_fail)

    def go_lookup(self) -> Contestant:
        """Look up the key by the native peer, in Go; where it prints something else, it failed."""
        words = [str(self.go_peer), "openssh-authorized-keys", "--source", "ec2-instance-connect"]
        words += ["-u", USERS[1], "-f", self.key.fingerprint]
        environment = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.machine.metadata.url,
            "SSL_CERT_FILE": str(self.machine.directory / "anchors.pem"),
        }
        return Contestant(
            "native peer (Go)",
            words,
            frozenset({self.key.line}),
            may_fail=True,
            environment=environment,
        )


def opened(bench: Bench) -> dict[str, int]:
    """Count the files and directories that are opened, with strace; nothing where there is none."""
    strace = shutil.which("strace")
    if strace is None:
        return {}
    bench.refresh()
    log, user = bench.machine.directory / "opened", USERS[1]
    # With -D the traced process is the one that we start.
    tracing = [strace, "-D", "-f", "-qq", "-e", "trace=open,openat", "-o", str(log)]

    def count(*argv: str) -> int:
        bench.launcher.run([*tracing, *argv])
        return _count_opened(log)

    client = bench.machine.client(bench.warm.path, user, bench.key.fingerprint)
    one_process = str(bench.machine.agent), "authorized-keys", user, bench.key.fingerprint
    counts = {
        "bare interpreter": count(PYTHON, "-I", "-S", "-c", "pass"),
        "client, agent warm": count(*client),
        "one process (`authorized-keys`)": count(*one_process),
    }
    path = bench.machine.directory / "traced.sock"
    with Activated(bench.machine.agent, path, tracing) as agent:
        client = bench.machine.client(path, user, bench.key.fingerprint)
        bench.launcher.run(client, meanwhile=agent.meanwhile)
        agent.finish()
    counts[STARTED] = _count_opened(log)
    return counts


def _count_opened(log: Path) -> int:
    """Count what was opened, once the tracer has written all of it."""
    size = -1
    while size != (size := log.stat().st_size):
        time.sleep(0.2)
    return sum("open" in line and " = -1 " not in line for line in log.read_text().splitlines())


@dataclass(frozen=True, slots=True)
class Lookups:
    """The first table's contestants."""

    bare: Contestant
    warm: Contestant
    warm_none: Contestant
    cold: Contestant
    cold_none: Contestant
    one_process: Contestant
    go_peer: Contestant | None
    reference: Contestant | None
    reference_none: Contestant | None

    @property
    def all(self) -> list[Contestant]:
        """Those that there are, in the order of the table."""
        return [c for c in map(self.__getattribute__, self.__slots__) if c is not None]


def lookups(bench: Bench) -> Lookups:
    """One lookup in every way."""
    there = bench.reference is not None
    found = Lookups(
        bare=bench.bare(),
        warm=bench.lookup("client, agent warm", 1, "warm", 5),
        warm_none=bench.lookup("— user without keys", 0, "warm", 2),
        cold=bench.lookup("client, agent started by the lookup", 1, "cold"),
        cold_none=bench.lookup("— user without keys", 0, "cold"),
        one_process=bench.lookup("one process (`authorized-keys`)", 1, "one-process"),
        go_peer=bench.go_lookup() if bench.go_peer else None,
        reference=bench.lookup("shell reference", 1, "reference") if there else None,
        reference_none=bench.lookup("— user without keys", 0, "reference") if there else None,
    )
    bench.run(found.all, bench.rounds)
    return found


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Median seconds: of runs that come less and less far, and of steps inside the agent."""

    bare: float
    not_torn_down: float
    compiled: float
    answered: float
    warm: float
    steps: dict[str, float]
    service_cpu_s: float  # of the simulator, for one request


def breakdown(bench: Bench) -> Breakdown:
    """Take a warm lookup apart."""
    machine = bench.machine
    nobody = machine.directory / "answerer.sock"
    argv = machine.client(nobody, USERS[1], bench.key.fingerprint)
    bare, warm = bench.bare(1), bench.lookup("warm", 1, "warm")
    leave = [PYTHON, "-I", "-S", "-c", "import posix; posix._exit(0)"]
    not_torn_down = Contestant("not torn down", leave)
    idle_client = machine.directory / "idle_client.py"
    source = CLIENT.read_text()
    assert _LEAVE in source
    idle_client.write_text(source.replace(_LEAVE, "posix._exit(0)"))
    compiled = Contestant("compiled", [PYTHON, "-I", "-S", str(idle_client)])
    answered = Contestant("answered at once", argv, frozenset({bench.key.line}))
    with answerer(nobody, bench.key.line):
        bench.run([bare, not_torn_down, compiled, answered, warm], bench.rounds * 5)
    arguments = [str(_INSIDE), ":".join(import_path()), str(machine.config), USERS[1]]
    done = subprocess.run(
        [machine.interpreter, "-ISB", *arguments, bench.key.fingerprint, str(bench.rounds * 3)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    before = machine.metadata.cpu_s
    machine.metadata.do(metadata.take_requests)
    for _ in range(bench.rounds):
        bench.launcher.run(warm.argv)
    asked = sum(machine.metadata.do(metadata.take_requests).values())
    return Breakdown(
        bare.wall.median,
        not_torn_down.wall.median,
        compiled.wall.median,
        answered.wall.median,
        warm.wall.median,
        json.loads(done.stdout),
        (machine.metadata.cpu_s - before) / asked,
    )


def logins(bench: Bench) -> list[Contestant]:
    """Whole logins: key in a file, through us, through the reference."""
    machine = bench.machine
    keys_file = machine.directory / "authorized_keys"
    keys_file.write_text(bench.key.line + "\n")
    with ExitStack() as stack:

        def sshd(name: str, *options: str) -> Sshd:
            return stack.enter_context(Sshd(machine.directory / name, bench.key, options))

        from_file = sshd("sshd-file", f"AuthorizedKeysFile {keys_file}")
        through_us = sshd("sshd-agent", *asking(machine.client(bench.warm.path)))
        bench.push(from_file.user, [bench.key.line])
        found = [
            Contestant("key in a file", from_file.login),
            Contestant("through the agent, warm", through_us.login, agent=bench.warm),
        ]
        if bench.reference is not None:
            reference = sshd("sshd-reference", *asking(["/bin/sh", str(bench.reference)]))
            found.append(Contestant("through the shell reference", reference.login, may_fail=True))
        cold = sshd("sshd-cold", *asking(machine.client(bench.cold.path)))
        found.append(Contestant("through the agent, which it starts", cold.login, agent=bench.cold))
        bench.run(found, max(bench.rounds // 2, 1))
    return found


def growth(bench: Bench) -> dict[str, dict[int, Contestant]]:
    """The same lookup for users with more and more keys."""
    ways = {"client, agent warm": "warm", "one process": "one-process"}
    if bench.reference is not None:
        ways["shell reference"] = "reference"
    numbers = [number for number in USERS if number]
    table = {
        name: {number: bench.lookup(f"{name}, {number} keys", number, way) for number in numbers}
        for name, way in ways.items()
    }
    table["client, agent warm, every key wanted"] = {
        number: Contestant(
            f"{number} keys, all wanted",
            bench.machine.client(bench.warm.path, USERS[number]),
            frozenset(bench.lines[USERS[number]]),
            bench.warm,
        )
        for number in numbers
    }
    every = [contestant for row in table.values() for contestant in row.values()]
    bench.run(every, max(bench.rounds // 4, 1))
    return table


@dataclass(frozen=True, slots=True)
class Crowd:
    """Many lookups at once."""

    name: str
    latency_s: float
    right: int
    median_s: float
    last_s: float
    requests: int
    most_at_once: int


def crowds(bench: Bench) -> list[Crowd]:
    """So many lookups at once as sshd would never start by itself."""
    warm = bench.lookup("client, agent warm", 1, "warm")
    found = [_crowd(bench, warm, latency_s) for latency_s in (0.0, 0.05, 0.05, 0.05)]
    if bench.reference is not None:
        found.append(_crowd(bench, bench.lookup("shell reference", 1, "reference"), 0.0))
    return found


def _crowd(bench: Bench, contestant: Contestant, latency_s: float) -> Crowd:
    service = bench.machine.metadata
    bench.refresh()
    bench.launcher.run(contestant.argv)
    service.do(metadata.set_latency, latency_s)
    service.do(metadata.take_requests)
    costs, last_s = bench.launcher.run_at_once(CROWD, contestant.argv)
    most = service.do(metadata.most_at_once, USERS[1])
    requests = service.do(metadata.take_requests)
    service.do(metadata.set_latency, 0.0)
    walls = sorted(cost.wall_s for cost in costs)
    right = sum(map(contestant.is_right, costs))
    median_s = walls[len(walls) // 2]
    total = sum(requests.values())
    return Crowd(contestant.name, latency_s, right, median_s, last_s, total, most)


def minute(bench: Bench, lookups: int, seconds: float) -> LoadReport:
    """Lookups from 20 clients while keys are pushed and expire."""
    load = Load(bench.warm.path, bench.warm.pid, bench.machine.metadata, lookups, seconds)
    report = load.run()
    if report.wrong:
        raise BenchError("wrong answers under load: " + "; ".join(report.wrong[:5]))
    return report
