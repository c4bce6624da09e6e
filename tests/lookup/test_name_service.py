"""Users and groups where the name service hangs, has no name for a group, or two for a user."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from eic_agent import client
from eic_sandbox.simulator import MetadataSimulator, SSHKey, new_key
from tests.lookup.name_service import NameService
from tests.resident.process import wait_until

KEY = new_key()
LOOKUP_S = 2.0


@dataclass
class Host:
    """A simulated instance whose agent sees the other user database."""

    database: NameService
    sim: MetadataSimulator
    url: str
    directory: Path

    def configure(self, **policy: object) -> None:
        imds = {"endpoint": self.url, "deadline_s": LOOKUP_S}
        self.sim.config(self.directory, self.url, imds=imds, policy=policy)

    def command(self, *arguments: str) -> list[str]:
        config = self.directory / "config.toml"
        python = [sys.executable, "-m", "eic_agent", "--config", str(config)]
        return [*self.database.command(*python, *arguments)]

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=60, check=False
        )

    def keys(self, user: str) -> str:
        self.sim.push(user, KEY)
        return self.run("authorized-keys", user, KEY.fingerprint, "--deadline-s", "30").stdout


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    database = NameService(tmp_path)
    sim = MetadataSimulator()
    with sim.serve() as url:
        yield Host(database, sim, url, tmp_path)


def questions(user: str) -> list[int]:
    """Processes that ask the user database about a user."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if b"account" in words and user.encode() in words:
            found.append(int(path.parent.name))
    return found


def test_a_lookup_in_one_process_ends_where_the_user_database_hangs(host: Host) -> None:
    host.configure(deny_groups=["wheel"])
    host.sim.push("stuck0", KEY)
    done = host.run("authorized-keys", "stuck0", KEY.fingerprint)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search("stuck0.* user database|user database.* stuck0", done.stderr)
    assert "see with `id USER` whether" in done.stderr
    wait_until(lambda: not questions("stuck0"), "that nobody asks any more")
    assert host.keys("alice") == KEY.line + "\n"


@pytest.fixture
def agent(host: Host) -> Iterator[Host]:
    host.configure(deny_groups=["wheel"])
    with (host.directory / "config.toml").open("a") as config:
        config.write('[agent]\nclients = ["nobody", "lost0"]\n')
    serve = host.command("serve", "--socket", str(host.directory / "agent.sock"))
    with subprocess.Popen(serve) as process:
        try:
            wait_until((host.directory / "agent.sock").exists, "the agent listens")
            yield host
        finally:
            process.terminate()


def ask(host: Host, user: str, key: SSHKey | None = None) -> "subprocess.CompletedProcess[str]":
    """Ask the agent as sshd does; nobody falls back."""
    socket, nobody = str(host.directory / "agent.sock"), "/bin/false"
    command = [sys.executable, "-I", "-S", client.__file__, "--socket", socket, "--agent", nobody]
    return subprocess.run(
        [*command, user, (key or KEY).fingerprint],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def status(host: Host) -> dict[str, object]:
    done = host.run("status", "--socket", str(host.directory / "agent.sock"), "--json")
    data: dict[str, object] = json.loads(done.stdout)
    return data


def test_users_for_whom_the_database_hangs_stop_nobody_else(agent: Host) -> None:
    """Neither the agent's start, where a client of its socket is asked about, nor other lookups."""
    agent.sim.push("alice", KEY)
    with ThreadPoolExecutor(16) as pool:
        stuck = [pool.submit(ask, agent, f"stuck{n % 4}") for n in range(16)]
        wait_until(lambda: questions("stuck3"), "that the last of them is asked about")
        while not all(lookup.done() for lookup in stuck):
            assert ask(agent, "alice").stdout == KEY.line + "\n"
            assert len([pid for n in range(4) for pid in questions(f"stuck{n}")]) <= 4
    assert {lookup.result().stdout for lookup in stuck} == {""}
    assert {lookup.result().returncode for lookup in stuck} == {1}
    wait_until(lambda: not any(questions(f"stuck{n}") for n in range(4)), "that nobody asks")
    assert status(agent)["undecided"] == {"metadata-unavailable": 16}


def test_the_question_ends_with_its_time_whatever_became_of_who_asked(host: Host) -> None:
    asks = (
        "from eic_agent.lookup.users import *; from eic_agent.metadata.deadline import *;"
        "UserDatabase().account('stuck9', Deadline.after(1))"
    )
    with subprocess.Popen(host.database.command(sys.executable, "-c", asks)) as process:
        wait_until(lambda: questions("stuck9"), "that it is asked")
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not questions("stuck9"), "that the kernel ends the question")


def test_a_client_of_roots_that_cannot_learn_the_agents_groups_ends(host: Host) -> None:
    """It gives up root before it looks up anything, and asks for the groups of the agent's user."""
    client_py = [sys.executable, "-I", "-S", client.__file__, "--socket", "/none"]
    ask_alone = host.database.command(*client_py, "--agent", "/bin/true", "alice")
    assert subprocess.run(ask_alone, timeout=60, check=False).returncode == 0
    host.database.all_hangs.touch()
    assert subprocess.run(ask_alone, timeout=60, check=False).returncode == -signal.SIGALRM


@pytest.mark.parametrize(
    ("policy", "granted"),
    [
        ({"deny_groups": ["wheel"], "deny_users": ["0"]}, {"alice"}),  # eve's group may be anything
        ({"deny_groups": ["10"], "deny_users": ["root"]}, {"alice", "eve", "toor"}),
        ({"rules": [{"users": ["0"], "callers": []}]}, {"alice", "eve"}),
    ],
)
def test_groups_without_a_name_and_users_with_two(
    host: Host, policy: dict[str, object], granted: set[str]
) -> None:
    host.configure(**policy)
    assert {user for user in ("alice", "eve", "toor") if host.keys(user)} == granted
