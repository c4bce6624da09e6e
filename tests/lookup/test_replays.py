"""Nothing of the past comes back, whoever sets the clock.

He who answers in the place of metadata may answer in the place of NTP. docs/threat-model.md names
these tests.
"""

import pytest

from eic_agent.errors import Reason
from eic_agent.lookup.memory import Memory
from eic_agent.lookup.policy import CallerRule
from eic_sandbox.simulator import CALLER, new_key
from eic_sandbox.simulator.staples import Staple
from tests.lookup.rig import ALICES_KEY, NOW, Rig, only

KEYS = "/latest/meta-data/managed-ssh-keys/active-keys/"


def serve_to(rig: Rig, user: str, of: str = "alice") -> None:
    """Answer for one user with what was pushed for another."""
    rig.sim.documents[f"{KEYS}{user}/"] = rig.sim.get(f"{KEYS}{of}/")[1]


def test_a_block_that_was_granted_does_not_come_back_when_the_clock_is_set_back(rig: Rig) -> None:
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    rig.pass_time(100)
    rig.now = NOW + 1
    decision = only(rig.ask(agent=agent))
    assert decision.reason is Reason.REPLAYED_BLOCK
    assert "first seen 100 s ago, by the clock of this boot, with 60 s to live" in decision.detail
    assert decision.caller == CALLER  # its signature is verified


def test_a_clock_that_stands_still_lets_no_block_live_longer(rig: Rig) -> None:
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    rig.boot += 59
    assert rig.ask(agent=agent).lines
    rig.boot += 1
    assert rig.refusals(agent=agent) == [Reason.REPLAYED_BLOCK]


def test_a_block_that_was_refused_as_expired_does_not_come_back(rig: Rig) -> None:
    agent = rig.agent()
    assert rig.ask(agent=agent).lines  # so the signer is known
    late = new_key()
    rig.sim.push("bob", late)
    rig.pass_time(61)
    assert rig.refusals("bob", agent=agent) == [Reason.EXPIRED]
    rig.now = NOW + 30
    assert rig.refusals("bob", agent=agent) == [Reason.REPLAYED_BLOCK]


def test_a_clock_set_back_by_more_than_the_skew_is_not_believed(rig: Rig) -> None:
    """Nothing of the block was ever seen: that it is later is all that the agent knows."""
    agent = rig.agent()
    rig.now += 86400
    assert not rig.ask("nobody", agent=agent).lines
    rig.now = NOW
    decision = only(rig.ask(agent=agent))
    assert decision.reason is Reason.EXPIRED
    assert "it was set back, and 86160 s more than it shows are believed" in decision.detail


def test_a_clock_set_back_by_less_than_the_skew_is_believed(rig: Rig) -> None:
    agent = rig.agent()
    rig.now += 239
    assert not rig.ask("nobody", agent=agent).lines
    rig.now = NOW
    assert rig.ask(agent=agent).lines


def test_the_time_goes_on_while_nobody_asks(rig: Rig) -> None:
    """What the signer has signed says how late it was, and the clock of the boot how late it is."""
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    rig.boot += 86400
    rig.now = NOW + 3600
    rig.sim.push("bob", new_key(), expires=int(NOW) + 3660)
    decision = only(rig.ask("bob", agent=agent))
    assert decision.reason is Reason.EXPIRED
    assert "it was set back" in decision.detail


def test_a_clock_that_was_ahead_is_believed_when_it_has_caught_up(rig: Rig) -> None:
    """No signed time vouches for what it showed, so nobody is kept out for ever."""
    agent = rig.agent()
    rig.now += 3600
    assert not rig.ask("nobody", agent=agent).lines
    rig.now = NOW
    assert rig.refusals(agent=agent) == [Reason.EXPIRED]
    rig.pass_time(3600 - 240)
    key = new_key()
    rig.sim.keys.clear()
    rig.sim.push("alice", key, expires=int(rig.now) + 60)
    assert rig.ask(agent=agent).lines == (key.line,)


def test_a_revoked_signers_last_good_staple_does_not_come_back_either(rig: Rig) -> None:
    rig.sim.staples["leaf"] = Staple(rig.sim.pki.leaf, age_s=0, lifetime_s=3600)
    agent = rig.agent()
    rig.now += 86400
    assert not rig.ask("nobody", agent=agent).lines
    rig.now = NOW
    rig.sim.keys["alice"][0].expires = int(NOW) + 86400
    rig.change(max_lifetime_s=86400)
    assert rig.refusals(agent=agent) == [Reason.NO_VALID_STAPLE]


def test_one_push_for_two_users_is_an_attack_and_good_for_neither(rig: Rig) -> None:
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    serve_to(rig, "root")
    decision = only(rig.ask("root", agent=agent))
    assert decision.reason is Reason.REPLAYED_BLOCK
    assert "an attack: metadata serves one push for two users, 'alice' and 'root'" in (
        decision.detail
    )
    assert decision.caller == CALLER
    assert decision.entry()["PRIORITY"] == "4"
    assert rig.refusals("alice", agent=agent) == [Reason.REPLAYED_BLOCK]
    assert rig.refusals("root", agent=agent) == [Reason.REPLAYED_BLOCK]


def test_another_signature_over_the_same_push_is_the_same_push(rig: Rig) -> None:
    """RSA-PSS is salted: who has the push signed once more by a replay has another signature."""
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    rig.sim.keys["root"] = rig.sim.keys["alice"]
    rig.sim.keys["alice"][0]._signed = None
    assert rig.refusals("root", agent=agent) == [Reason.REPLAYED_BLOCK]


def test_what_was_seen_outlives_a_configuration(rig: Rig) -> None:
    memory = Memory(lambda: rig.boot)
    assert rig.ask(agent=rig.agent(memory)).lines
    rig.boot += 61
    assert rig.refusals(agent=rig.agent(memory)) == [Reason.REPLAYED_BLOCK]


def test_a_caller_who_may_not_push_for_one_user_spoils_it_for_the_other(rig: Rig) -> None:
    rule = CallerRule(("alice",), ())
    rig.rules = rig.rules.__class__(
        rig.rules.policy.__class__(callers=(rule,)),
        rig.rules.trust,
        rig.rules.sysfs_root,
        rig.rules.deadline_s,
    )
    agent = rig.agent()
    assert rig.refusals(agent=agent) == [Reason.CALLER_NOT_ALLOWED]
    serve_to(rig, "root")
    assert rig.refusals("root", agent=agent) == [Reason.REPLAYED_BLOCK]


# What goes on working


def test_sshd_asks_twice_for_a_login_and_a_user_logs_in_again_within_the_minute(rig: Rig) -> None:
    agent = rig.agent()
    for _ in range(6):
        assert rig.ask(key=ALICES_KEY, agent=agent).lines == (ALICES_KEY.line,)
        rig.pass_time(9)


def test_several_keys_and_several_users_do_not_meet(rig: Rig) -> None:
    agent = rig.agent()
    second = new_key()
    rig.sim.push("alice", second)
    rig.sim.push("bob", ALICES_KEY)  # the same key, by a push of its own
    assert rig.ask(agent=agent).lines == (ALICES_KEY.line, second.line)
    assert rig.ask("bob", agent=agent).lines == (ALICES_KEY.line,)
    assert rig.ask(key=second, agent=agent).lines == (second.line,)


def test_the_same_key_pushed_again_lives_anew(rig: Rig) -> None:
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    rig.pass_time(61)
    rig.sim.keys.clear()
    rig.sim.push("alice", ALICES_KEY, expires=int(rig.now) + 60)
    assert rig.ask(agent=agent).lines == (ALICES_KEY.line,)


def test_a_block_served_many_times_is_one_key(rig: Rig) -> None:
    rig.sim.keys["alice"] *= 50
    answer = rig.ask()
    assert answer.lines == (ALICES_KEY.line,)
    assert len(answer.decisions) == 1


@pytest.mark.parametrize("age_s", [0, 3599, 3601])
def test_without_a_limit_a_block_lives_as_long_as_it_says(rig: Rig, age_s: int) -> None:
    rig.change(max_lifetime_s=0)
    rig.sim.keys["alice"][0].expires = int(NOW) + 3600
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    rig.boot += age_s
    assert bool(rig.ask(agent=agent).lines) == (age_s < 3600)


# What is kept


def test_forged_blocks_push_no_genuine_one_out_of_memory(rig: Rig) -> None:
    memory = Memory(lambda: rig.boot)
    agent = rig.agent(memory)
    assert rig.ask(agent=agent).lines
    genuine = rig.sim.get(f"{KEYS}alice/")[1]
    forged = b"".join(
        f"#Timestamp={int(NOW) + 30}\n#Instance={rig.sim.instance_id}\n#Request={number}\n"
        f"{ALICES_KEY.line}\nAAAA\n\n".encode()
        for number in range(1000)
    )
    rig.sim.documents[f"{KEYS}bob/"] = forged
    assert not rig.ask("bob", agent=agent).lines
    assert memory.blocks == 1
    rig.sim.documents[f"{KEYS}bob/"] = forged + genuine
    decision = rig.ask("bob", agent=agent).decisions[0]
    assert decision.reason is Reason.REPLAYED_BLOCK


def test_what_no_clock_can_bring_back_is_forgotten(rig: Rig) -> None:
    memory = Memory(lambda: rig.boot)
    agent = rig.agent(memory)
    for _ in range(20):
        rig.sim.keys.clear()
        rig.sim.push("alice", new_key(), expires=int(rig.now) + 60)
        assert rig.ask(agent=agent).lines
        rig.pass_time(60)
    assert memory.blocks == 5  # those of the last clock_skew_s, and the last one
