"""What strangers can fill is bounded: a real agent, and the memory that its unit allows."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eic_agent import client
from eic_sandbox.simulator import MetadataSimulator, new_key
from eic_sandbox.simulator.host import write_config
from tests.resident.process import PATIENCE_S, ROOT, wait_until

USERS = 32
KEY = new_key()
DEADLINE_S = 6.0


@pytest.fixture
def sim() -> MetadataSimulator:
    return MetadataSimulator()


@pytest.fixture
def agent(sim: MetadataSimulator, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Give the socket and the process id of an agent that is warm."""
    anchors, path = tmp_path / "anchors.pem", tmp_path / "agent.sock"
    anchors.write_bytes(sim.anchors_pem)
    with sim.serve() as url:
        tables: dict[str, dict[str, object]] = {
            "imds": {"endpoint": url, "timeout_s": 5.0, "deadline_s": DEADLINE_S},
            "identity": {"sysfs_root": str(sim.sysfs(tmp_path))},
            "trust": {"anchors": str(anchors)},
        }
        config = write_config(tmp_path / "config.toml", tables)
        words = ["-m", "eic_agent", "--config", str(config), "serve", "--socket", str(path)]
        process = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL)
        try:
            wait_until(path.exists, "the agent listens")
            sim.push("alice", KEY)
            wait_until(lambda: lookup(path, "alice") == f"{KEY.line}\n".encode(), "a first grant")
            yield path, process.pid
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def lookup(path: Path, user: str) -> bytes | None:
    """What sshd's client gets; None where there was no answer in time."""
    try:
        return client.ask(str(path), user, "", 1, time.monotonic() + DEADLINE_S)[1]
    except (OSError, ValueError):
        return None


def forged(sim: MetadataSimulator, size: int) -> bytes:
    """As many blocks as fit, each good in all but its signature."""
    expires = int(time.time()) + 60
    blocks: list[bytes] = []
    while size > 0:
        block = (
            f"#Timestamp={expires}\n#Instance={sim.instance_id}\n#N={len(blocks)}\n"
            f"{KEY.line}\nAAAA\n\n"
        ).encode()
        size -= len(block)
        blocks.append(block)
    return b"".join(blocks[:-1])


def peak_mib(pid: int) -> float:
    (kib,) = re.findall(r"VmHWM:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kib) / 1024


@pytest.mark.parametrize("size", [1 << 20, 1 << 18], ids=["1 MiB", "256 KiB"])
def test_forged_documents_for_many_users_stay_within_the_units_memory(
    sim: MetadataSimulator, agent: tuple[Path, int], size: int
) -> None:
    path, pid = agent
    unit = (ROOT / "systemd" / "eic-agent.service").read_text()
    (allowed_mib,) = re.findall("^MemoryMax=([0-9]+)M$", unit, re.MULTILINE)
    keys = "/latest/meta-data/managed-ssh-keys/active-keys"
    document = forged(sim, size)
    for number in range(USERS):
        sim.documents[f"{keys}/user{number}/"] = document
    threads = [
        threading.Thread(target=lookup, args=(path, f"user{number}")) for number in range(USERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert peak_mib(pid) < 0.75 * int(allowed_mib)
    fresh = new_key()
    sim.push("bob", fresh)
    wait_until(lambda: lookup(path, "bob") == f"{fresh.line}\n".encode(), "others are answered")
