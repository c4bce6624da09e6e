"""What the running agent remembers of blocks, by its real clocks and over a reload."""

import signal
import time
from pathlib import Path

from eic_sandbox.simulator import MetadataSimulator, new_key
from tests.resident.process import wait_until
from tests.resident.warm import WarmAgent

LIFETIME_S = 3.0


def test_a_running_agent_takes_nothing_back_from_a_clock_that_is_set_back(tmp_path: Path) -> None:
    """Nor does a reload make it forget; what is pushed anew is granted all the while."""
    agent = WarmAgent(MetadataSimulator(), tmp_path, deadline_s=10.0)
    with agent.run(keys={"max_lifetime_s": LIFETIME_S}):
        seen = time.clock_gettime(time.CLOCK_BOOTTIME)
        agent.sim.push("dave", new_key())
        assert agent.lookup("dave")
        agent.configure(keys={"max_lifetime_s": LIFETIME_S}, policy={"deny_users": ["dave"]})
        agent.process.send_signal(signal.SIGHUP)
        wait_until(lambda: agent.lookup("dave") == b"", "the configuration is read anew")
        while time.clock_gettime(time.CLOCK_BOOTTIME) < seen + LIFETIME_S + 0.1:
            time.sleep(0.1)
        agent.set_clock(-30)
        assert agent.lookup("alice") == b""
        fresh = new_key()
        agent.sim.push("bob", fresh)
        assert agent.grants("bob", fresh)
        agent.sim.keys["root"] = agent.sim.keys["bob"]
        assert agent.lookup("root") == b""
        assert agent.lookup("bob") == b""
