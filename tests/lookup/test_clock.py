"""What time it is, and what is said of it."""

import time

from eic_agent.lookup.clock import Clock
from eic_agent.lookup.memory import Memory, boottime


def test_the_clock_of_the_boot_goes_on_also_while_the_machine_slept() -> None:
    assert time.monotonic() <= boottime() <= boottime()


def test_what_is_not_known_of_a_clock_is_not_said() -> None:
    clock = Clock(lambda: 1000.0, Memory(lambda: 0.0), 0, lambda: None)
    assert clock.noted("too late") == "too late"


def test_both_directions_and_a_clock_that_was_set_back_are_told() -> None:
    wall = 1000.0
    offset_s = 12.0
    clock = Clock(lambda: wall, Memory(lambda: 0.0), 5, lambda: offset_s)
    assert clock.noted("x") == "x; this machine's clock is 12 s ahead of metadata's"
    offset_s, wall = -12.0, 900.0
    assert clock.now() == 995.0
    assert clock.noted("x") == (
        "x; this machine's clock is 12 s behind metadata's; it was set back, and 95 s more than it "
        "shows are believed until it has caught up or eic-agent is restarted"
    )
