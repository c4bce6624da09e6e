"""Real logins while the way to metadata loses packets, is slow, and one answer in ten is a 503.

EIC_LOSSY_LOGINS says how many are tried; docs/reliability.md has the figures of 200.
"""

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eic_sandbox import link, network
from eic_sandbox.guest import USER, guest
from eic_sandbox.link import Link
from eic_sandbox.network import METADATA_ADDRESS, Machine
from eic_sandbox.simulator import MetadataSimulator, faults, new_key
from eic_sandbox.simulator.simulator import SIGNER_CERT
from eic_sandbox.sshd import Sshd
from tests import support

LOGINS = int(os.environ.get("EIC_LOSSY_LOGINS", "12"))
AT_ONCE = 4
INSTANCE = "172.31.0.10"
LOSS = 0.02
ONE_WAY_S = 0.05
UNAVAILABLE = 0.1


@pytest.fixture(name="instance")
def machine_with_nothing_but_a_way_to_metadata() -> Iterator[tuple[Machine, Link, Machine]]:
    if problem := network.obstacle() or link.obstacle():
        support.lacking(f"a lossy link ({problem})", "apt-get install iproute2")
    with (
        network.machine() as near,
        network.machine() as far,
        link.link(near, far, [INSTANCE], [METADATA_ADDRESS]) as way,
    ):
        yield near, way, far


def one_in_ten_unavailable(seed: int) -> faults.Fault:
    dice = random.Random(seed)

    def fault(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
        if dice.random() < UNAVAILABLE:
            answer.status, answer.body = 503, b""
        yield answer.raw()

    return fault


# Without the agent each lookup starts an interpreter and asks for everything, about ten requests.
@pytest.mark.parametrize(
    ("resident", "logins"),
    [(True, LOGINS), (False, LOGINS // 4)],
    ids=["the agent", "a process for each lookup"],
)
def test_every_login_is_let_in(
    resident: bool, logins: int, instance: tuple[Machine, Link, Machine]
) -> None:
    support.program("sshd", "openssh-server")
    support.program("ssh", "openssh-client")
    near, way, far = instance
    metadata = MetadataSimulator()
    metadata.linger_s = 0.0
    # Not pytest's own directory: sshd runs the agent as a user who cannot enter that.
    with tempfile.TemporaryDirectory(prefix="eic-lossy-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        far.call(lambda: stack.enter_context(metadata.serve(METADATA_ADDRESS, 80)))
        (directory / "guest").mkdir()
        stack.enter_context(guest(near, directory / "guest", "lossy"))
        # sshd may run the client as nobody while the agent runs as root.
        config = metadata.config(directory, "auto", agent={"clients": ["nobody"]})
        way.loses, way.delay_s = link.loses(LOSS), ONE_WAY_S
        metadata.faults["*"] = one_in_ten_unavailable(1)
        sshd = stack.enter_context(
            Sshd(
                directory / "sshd",
                config,
                machine=near,
                address=INSTANCE,
                user=USER,
                resident=resident,
            )
        )

        def login(number: int) -> tuple[int, str, float]:
            key = new_key()
            path = directory / f"key-{number}"
            path.touch(mode=0o600)
            path.write_bytes(key.private_openssh)
            metadata.push(USER, key)
            begun = time.monotonic()
            tried = sshd.login([path])
            return tried.status, tried.stderr, time.monotonic() - begun

        with ThreadPoolExecutor(AT_ONCE) as threads:
            done = list(threads.map(login, range(logins)))
        agent_log = sshd.agent_log.read_text()
    refused = [stderr for status, stderr, _ in done if status != 0]
    took = sorted(seconds for _, _, seconds in done)
    answered = sum(metadata.requests.values())
    print(
        f"{logins - len(refused)} of {logins} logins; median {took[len(took) // 2]:.2f} s, "
        f"slowest {took[-1]:.2f} s; {answered} requests, {way.lost} of {way.carried + way.lost} "
        "packets lost"
    )
    assert not refused, (refused, agent_log)
    assert way.lost
    # A fetch of the signer for nearly every lookup would show that nobody asked the agent.
    assert not resident or metadata.requests[SIGNER_CERT] <= max(logins, 4)
