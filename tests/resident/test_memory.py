"""What strangers can fill is bounded: a real agent, and the memory that its unit allows."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eic_sandbox.simulator import MetadataSimulator, new_key
from tests.resident.process import ROOT, wait_until
from tests.resident.warm import WarmAgent

USERS = 32


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[WarmAgent]:
    """Run an agent that is warm."""
    agent = WarmAgent(MetadataSimulator(), tmp_path, deadline_s=6.0)
    with agent.run():
        yield agent


def forged(agent: WarmAgent, size: int) -> bytes:
    """As many blocks as fit, each good in all but its signature."""
    expires = int(time.time()) + 60
    blocks: list[bytes] = []
    while size > 0:
        block = (
            f"#Timestamp={expires}\n#Instance={agent.sim.instance_id}\n#N={len(blocks)}\n"
            f"{agent.key.line}\nAAAA\n\n"
        ).encode()
        size -= len(block)
        blocks.append(block)
    return b"".join(blocks[:-1])


def peak_mib(pid: int) -> float:
    (kib,) = re.findall(r"VmHWM:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kib) / 1024


@pytest.mark.parametrize("size", [1 << 20, 1 << 18], ids=["1 MiB", "256 KiB"])
def test_forged_documents_for_many_users_stay_within_the_units_memory(
    agent: WarmAgent, size: int
) -> None:
    unit = (ROOT / "systemd" / "eic-agent.service").read_text()
    (allowed_mib,) = re.findall("^MemoryMax=([0-9]+)M$", unit, re.MULTILINE)
    users = [f"user{number}" for number in range(USERS)]
    document = forged(agent, size)
    for user in users:
        agent.sim.documents[f"/latest/meta-data/managed-ssh-keys/active-keys/{user}/"] = document
    with ThreadPoolExecutor(USERS) as pool:
        list(pool.map(agent.lookup, users))
    assert peak_mib(agent.process.pid) < 0.75 * int(allowed_mib)
    fresh = new_key()
    agent.sim.push("bob", fresh)
    wait_until(lambda: agent.grants("bob", fresh), "others are answered")
