"""Whatever clocks show and metadata serves: no block outlives itself, none is for two users."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from eic_agent.lookup.keyblock import KeyBlock
from eic_agent.lookup.memory import Memory

NOW = 1_800_000_000.0
LIFETIME_S = 60.0


@dataclass(frozen=True)
class Lookup:
    """One that an attacker arranges: who asks, what is served, and what the wall clock shows."""

    after_s: float
    wrong_by_s: float
    block: int
    user: str
    skew_s: float


def block(number: int) -> KeyBlock:
    """Give one of several pushes, a minute and a half apart."""
    expires = int(NOW + 90 * number + LIFETIME_S)
    return KeyBlock(expires, "i-0123456789abcdef0", None, None, b"", b"%d" % number, b"")


lookups = st.builds(
    Lookup,
    after_s=st.sampled_from([0.0, 1.0, 30.0, 59.0, 60.0, 300.0, 4000.0]),
    wrong_by_s=st.sampled_from([0.0, -30.0, -239.0, -241.0, -3600.0, 100.0, 86400.0])
    | st.floats(-5000, 5000),
    block=st.integers(0, 4),
    user=st.sampled_from(["alice", "root"]),
    skew_s=st.sampled_from([240.0, 240.0, 240.0, 0.0, 3600.0]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(lookups, max_size=25))
def test_no_block_outlives_itself_and_none_is_for_two_users(attack: list[Lookup]) -> None:
    boot = 100.0
    memory = Memory(lambda: boot)
    first_seen: dict[int, float] = {}
    users: dict[int, set[str]] = {}
    for step in attack:
        boot += step.after_s
        served = block(step.block)
        wall = NOW + boot - 100.0 + step.wrong_by_s
        believed = memory.believe(wall, step.skew_s)
        in_time = believed < served.expires <= believed + LIFETIME_S + step.skew_s
        if not in_time:
            continue
        first_seen.setdefault(step.block, boot)
        users.setdefault(step.block, set()).add(step.user)
        granted = memory.meet(served, step.user, believed, LIFETIME_S, step.skew_s) is None
        if granted:
            assert boot < first_seen[step.block] + LIFETIME_S
            assert users[step.block] == {step.user}


def test_what_is_forgotten_does_not_come_back_where_the_skew_is_configured_larger() -> None:
    boot = 0.0
    memory = Memory(lambda: boot)
    old, new = block(0), block(10)
    assert memory.meet(old, "alice", memory.believe(NOW, 240), LIFETIME_S, 240) is None
    now = memory.believe(NOW + 900, 240)
    assert memory.meet(new, "alice", now, LIFETIME_S, 240) is None
    assert memory.blocks == 1
    assert memory.believe(NOW, 3600) >= old.expires
