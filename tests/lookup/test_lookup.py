"""What a lookup gives, asks, remembers and tells."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.x509.ocsp import OCSPCertStatus

from eic_agent.errors import Reason
from eic_agent.lookup.policy import CallerRule, Policy, UserRules
from eic_agent.lookup.question import Question
from eic_agent.metadata.deadline import Deadline
from eic_sandbox.simulator import (
    CALLER,
    KEY_TYPES,
    MetadataSimulator,
    another_rsa_key,
    faults,
    new_key,
)
from tests.lookup.rig import ALICES_KEY, NOW, Rig, make_rig, only

KEYS = "/latest/meta-data/managed-ssh-keys/active-keys/"


def test_a_pushed_key_is_granted_with_who_pushed_it(rig: Rig) -> None:
    answer = rig.ask(key=ALICES_KEY)
    assert answer.lines == (ALICES_KEY.line,)
    decision = only(answer)
    assert decision.granted
    assert decision.reason is None
    assert decision.caller == CALLER
    assert decision.request == rig.sim.keys["alice"][0].request
    assert decision.fingerprint == ALICES_KEY.fingerprint
    assert decision.instance == rig.sim.instance_id
    assert decision.expires == NOW + 60


def test_a_comment_is_never_passed_on(rig: Rig) -> None:
    rig.sim.keys["alice"][0].key_line += ' evil",command="sh" comment'
    assert rig.ask().lines == (ALICES_KEY.line,)


def test_a_key_is_for_its_user_only(rig: Rig) -> None:
    answer = rig.ask("bob")
    assert (answer.lines, answer.decisions) == ((), ())
    assert answer.undecided is None


def test_another_key_than_the_one_offered_is_neither_given_nor_journalled(rig: Rig) -> None:
    answer = rig.ask(key=new_key())
    assert (answer.lines, answer.decisions) == ((), ())


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_keys_of_every_type_are_granted(rig: Rig, kind: str) -> None:
    key = new_key(kind)
    rig.sim.keys.clear()
    rig.sim.push("alice", key)
    assert rig.ask(key=key).lines == (key.line,)


def test_every_key_of_a_user_is_decided_about_on_its_own(rig: Rig) -> None:
    second, third = new_key(), new_key()
    rig.sim.push("alice", second).tamper = lambda text: b"#broken\n\n" + text
    rig.sim.push("alice", third).instance = "i-0fedcba987654321f"
    answer = rig.ask()
    assert answer.lines == (ALICES_KEY.line, second.line)
    assert [d.reason for d in answer.decisions] == [
        None,
        None,
        Reason.MALFORMED_BLOCK,
        Reason.OTHER_INSTANCE,
    ]


def test_thirty_two_of_the_longest_keys_by_the_longest_caller_are_granted(rig: Rig) -> None:
    """What the API takes: 4096 characters of key; an ARN of IAM's has 2048 at most."""
    rig.sim.keys.clear()
    caller = "arn:aws:sts::123456789012:assumed-role/Admin/".ljust(2048, "a")
    keys = [new_key() for _ in range(32)]
    for key in keys:
        rig.sim.push("alice", (key.line + " ").ljust(4096, "c"), caller=caller)
    assert rig.ask().lines == tuple(key.line for key in keys)


# Requests


def asked(rig: Rig) -> int:
    return sum(rig.sim.requests.values())


def test_a_first_lookup_asks_seven_times_and_for_the_staples(rig: Rig) -> None:
    rig.ask(key=ALICES_KEY)
    staples = [path for path in rig.sim.requests if "/signer-ocsp/" in path and path[-1] != "/"]
    assert len(staples) == 2
    assert asked(rig) == 7 + len(staples)


def test_a_first_lookup_without_keys_asks_three_times(rig: Rig) -> None:
    rig.ask("bob")
    assert asked(rig) == 3


def test_a_key_that_is_not_pushed_costs_no_chain(rig: Rig) -> None:
    rig.ask(key=new_key())
    assert asked(rig) == 3


def test_a_warm_lookup_asks_once(rig: Rig) -> None:
    agent = rig.agent()
    rig.ask(agent=agent)
    rig.sim.reset_counters()
    assert rig.ask(key=ALICES_KEY, agent=agent).lines
    assert rig.sim.requests == {KEYS + "alice/": 1}


def test_users_who_are_ruled_out_or_impossible_cost_no_request(rig: Rig) -> None:
    rig.rules = rig.rules.__class__(
        Policy(users=UserRules(deny_users=("alice",))),
        rig.rules.trust,
        rig.rules.sysfs_root,
        rig.rules.deadline_s,
    )
    assert rig.refusals() == [Reason.USER_NOT_ALLOWED]
    for user in ("", "..", "a/b", "\0", "\udcff", "x" * 4000, "root\nother"):
        assert rig.refusals(user) == []
    assert asked(rig) == 0


def test_a_refusal_of_a_user_names_the_key_that_was_offered(rig: Rig) -> None:
    rig.rules = rig.rules.__class__(
        Policy(users=UserRules(allow_groups=("no-such-group",))),
        rig.rules.trust,
        rig.rules.sysfs_root,
        rig.rules.deadline_s,
    )
    decision = only(rig.ask(key=ALICES_KEY))
    assert decision.fingerprint == ALICES_KEY.fingerprint
    assert decision.caller is None


def test_a_key_pushed_a_moment_ago_is_seen(rig: Rig) -> None:
    agent = rig.agent()
    for _ in range(3):
        key = new_key()
        assert not rig.ask(key=key, agent=agent).lines
        rig.sim.push("alice", key)
        assert rig.ask(key=key, agent=agent).lines == (key.line,)


# Time


def test_an_expired_key_is_refused_and_the_clocks_are_compared(rig: Rig) -> None:
    rig.now += 61
    decision = only(rig.ask())
    assert decision.reason is Reason.EXPIRED
    assert "this machine's clock is" in decision.detail
    assert decision.caller is None  # its signature was not verified


def test_a_key_with_an_hour_of_life_is_refused_unless_configured(rig: Rig) -> None:
    rig.sim.keys["alice"][0].expires = int(NOW) + 3600
    decision = only(rig.ask())
    assert decision.reason is Reason.EXPIRES_TOO_LATE
    assert "this machine's clock is" in decision.detail
    rig.change(max_lifetime_s=3600)
    assert rig.ask().lines


@pytest.mark.parametrize("slow_s", [0, 120, 240])
def test_a_slow_clock_takes_what_was_issued_a_moment_ago(rig: Rig, slow_s: float) -> None:
    """Certificates, staples, and a responder's certificate: all begin to hold this moment."""
    rig.sim.staples["leaf"].responder = rig.sim.pki.responder(rig.sim.pki.intermediate)
    rig.sim.staples["leaf"].responder.not_before = NOW
    rig.sim.pki.leaf.not_before = rig.sim.pki.intermediate.not_before = NOW
    for staple in rig.sim.staples.values():
        staple.age_s = 0
    rig.now = NOW - slow_s
    assert rig.ask().lines == (ALICES_KEY.line,)


@pytest.mark.parametrize(
    ("issue", "reason"),
    [
        (lambda sim: setattr(sim.pki.leaf, "not_before", NOW), Reason.UNTRUSTED_CHAIN),
        (lambda sim: setattr(sim.staples["leaf"], "age_s", 0), Reason.NO_VALID_STAPLE),
    ],
)
def test_a_clock_that_is_slower_than_allowed_is_told_by_how_much(
    rig: Rig, issue: Callable[[MetadataSimulator], None], reason: Reason
) -> None:
    rig.change(max_lifetime_s=3600)
    issue(rig.sim)
    rig.now = NOW - 241
    findings: list[object] = []

    def trace(step: int, outcome: str, **facts: object) -> None:
        findings.append(facts.get("problem"))

    agent = rig.agent(wall_clock=lambda: rig.now)
    answer = agent.lookup(Question("alice"), Deadline.after(20), trace)
    assert only(answer).reason is reason
    assert "this machine's clock is 241 s behind metadata's" in only(answer).detail
    assert only(answer).detail in findings


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda sim: setattr(sim.pki.leaf, "not_after", NOW - 1), Reason.UNTRUSTED_CHAIN),
        (lambda sim: setattr(sim.pki.intermediate, "not_after", NOW - 1), Reason.UNTRUSTED_CHAIN),
        (lambda sim: setattr(sim.staples["leaf"], "lifetime_s", 3600.0), Reason.NO_VALID_STAPLE),
    ],
)
def test_no_skew_makes_anything_last_longer(
    rig: Rig, end: Callable[[MetadataSimulator], None], reason: Reason
) -> None:
    end(rig.sim)
    rig.sim.pki.cross_root.not_before = NOW + 100  # so that a later moment is tried, too
    assert rig.refusals() == [reason]


def test_every_refusal_about_time_says_so_in_the_explanation(rig: Rig) -> None:
    rig.sim.keys["alice"][0].expires = int(NOW)
    findings: list[object] = []

    def trace(step: int, outcome: str, **facts: object) -> None:
        findings.append(facts.get("problem"))

    answer = rig.agent().lookup(Question("alice"), Deadline.after(20), trace)
    assert only(answer).detail in findings
    assert "this machine's clock is" in only(answer).detail


# Staples that cannot be had


@pytest.mark.parametrize("body", [None, b"*", b""])
def test_a_staple_that_is_not_needed_and_cannot_be_had_is_ignored(
    rig: Rig, body: bytes | None
) -> None:
    path = "/latest/meta-data/managed-ssh-keys/signer-ocsp/"
    names = rig.sim.get(path)[1]
    rig.sim.documents[path] = names + b"\nANOTHER"
    rig.sim.documents[path + "ANOTHER"] = body
    assert rig.ask().lines == (ALICES_KEY.line,)


@pytest.mark.parametrize("revocation", ["require", "if-stapled"])
@pytest.mark.parametrize("named", [True, False])
def test_a_staple_that_is_needed_and_cannot_be_had_leaves_nothing_decided(
    rig: Rig, revocation: str, *, named: bool
) -> None:
    """Under any name: what cannot be had may say that a certificate is revoked."""
    path = "/latest/meta-data/managed-ssh-keys/signer-ocsp/"
    name = rig.sim.pki.leaf.fingerprint("sha1") if named else "ANOTHER"
    if not named:
        rig.sim.staples["leaf"].name = name
    rig.sim.documents[path + name] = None
    trust = replace(rig.rules.trust, revocation=revocation)
    rig.rules = replace(rig.rules, trust=trust)
    answer = rig.ask()
    assert answer.undecided is Reason.METADATA_UNAVAILABLE
    assert name in answer.detail
    rig.sim.documents[path + name] = b"*"
    assert only(rig.ask()).reason is Reason.NO_VALID_STAPLE


def test_a_service_that_falls_silent_among_the_staples_is_not_asked_for_all_of_them(
    rig: Rig,
) -> None:
    path = "/latest/meta-data/managed-ssh-keys/signer-ocsp/"
    staples = [path + name.decode() for name in rig.sim.get(path)[1].split()]
    for staple in staples:
        rig.sim.faults[staple] = faults.status(503)
    assert rig.ask().undecided is Reason.METADATA_UNAVAILABLE
    assert len([staple for staple in staples if rig.sim.requests[staple]]) == 1


# The signer: what is kept, and what makes it fetched again


def test_a_region_that_was_forged_for_a_moment_is_not_kept(rig: Rig) -> None:
    agent = rig.agent()
    rig.sim.region = "us-west-2"
    assert rig.refusals(agent=agent) == [Reason.WRONG_SIGNER_NAME]
    rig.sim.region = "us-east-1"
    assert rig.ask(agent=agent).lines


def test_an_id_that_was_forged_for_a_moment_is_not_kept_where_hardware_knows_none(
    rig: Rig, tmp_path: Path
) -> None:
    rig.rules = replace(rig.rules, sysfs_root=rig.sim.sysfs(tmp_path / "xen", "xen"))
    agent = rig.agent()
    genuine, rig.sim.instance_id = rig.sim.instance_id, "i-0fedcba987654321f"
    assert rig.refusals(agent=agent) == [Reason.OTHER_INSTANCE]
    rig.sim.instance_id = genuine
    assert rig.ask(agent=agent).lines


def test_a_signer_is_verified_once_while_it_holds(rig: Rig) -> None:
    agent = rig.agent()
    for _ in range(5):
        assert rig.ask(agent=agent).lines
    assert agent.signers.fetches == 1


def test_a_signer_is_verified_again_after_its_staples_run_out(rig: Rig) -> None:
    rig.sim.staples["leaf"].lifetime_s = rig.sim.staples["leaf"].age_s + 30
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    rig.now += 31
    assert rig.refusals(agent=agent) == [Reason.NO_VALID_STAPLE]
    rig.sim.staples["leaf"].lifetime_s += 60
    assert rig.ask(agent=agent).lines
    assert agent.signers.fetches == 2


def test_a_signer_is_not_reused_where_that_is_not_allowed(tmp_path: Path) -> None:
    with make_rig(tmp_path) as rig:
        trust = rig.rules.trust.__class__(anchors=rig.rules.trust.anchors, max_cache_s=0)
        rig.rules = rig.rules.__class__(rig.rules.policy, trust, rig.rules.sysfs_root, 20)
        agent = rig.agent()
        assert rig.ask(agent=agent).lines
        assert rig.ask(agent=agent).lines
        assert agent.signers.fetches == 2


def test_the_signer_rotates_and_nobody_is_refused(rig: Rig) -> None:
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    rig.sim.rotate_signer()
    assert rig.ask(agent=agent).lines
    assert agent.signers.fetches == 2


def test_what_the_old_signer_signed_is_good_beside_what_the_new_one_signs(rig: Rig) -> None:
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    old_key = rig.sim.pki.leaf.key
    assert isinstance(old_key, RSAPrivateKey)
    rig.sim.keys["alice"][0].signing_key = old_key
    rig.sim.rotate_signer()
    second = new_key()
    rig.sim.push("alice", second)
    assert rig.ask(agent=agent).lines == (ALICES_KEY.line, second.line)


def test_bad_signatures_fetch_the_signer_at_a_limited_rate(rig: Rig) -> None:
    rig.sim.keys["alice"][0].caller = "mallory"
    rig.sim.keys["alice"][0].tamper = lambda text: text.replace(b"mallory", b"charlie")
    agent = rig.agent()
    for _ in range(5):
        assert rig.refusals(agent=agent) == [Reason.BAD_SIGNATURE]
    assert agent.signers.fetches <= 2


def test_a_bad_block_costs_no_good_one_also_where_the_signer_cannot_be_fetched_again(
    rig: Rig,
) -> None:
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    bad = rig.sim.push("alice", new_key())
    bad.tamper = lambda text: text.replace(b"alice", b"cecil")
    rig.sim.documents["/latest/meta-data/managed-ssh-keys/signer-cert/"] = None
    answer = rig.ask(agent=agent)
    assert answer.lines == (ALICES_KEY.line,)
    assert [d.reason for d in answer.decisions] == [None, Reason.BAD_SIGNATURE]


def forge_one_beside(rig: Rig) -> None:
    bad = rig.sim.push("alice", new_key())
    bad.tamper = lambda text: text.replace(b"alice", b"cecil")


def served_by_a_stranger(rig: Rig) -> None:
    rig.sim.pki.leaf.signing_key = another_rsa_key()


def served_for_another_name(rig: Rig) -> None:
    rig.sim.pki.leaf.dns_names = ["www.attacker.example"]


def served_without_staples(rig: Rig) -> None:
    rig.sim.staples.clear()


def served_with_a_revoked_signer_of_the_past(rig: Rig) -> None:
    """Its revocation is proved, and says nothing of the signer that is held."""
    old = rig.sim.pki.server(rig.sim.pki.leaf.common_name or "", purpose="an older leaf")
    rig.sim.chain[0] = old
    rig.sim.staples["leaf"] = type(rig.sim.staples["leaf"])(old, status=OCSPCertStatus.REVOKED)


def without_anchors(rig: Rig) -> None:
    Path(rig.rules.trust.anchors).unlink()


@pytest.mark.parametrize(
    "attack",
    [
        served_by_a_stranger,
        served_for_another_name,
        served_without_staples,
        served_with_a_revoked_signer_of_the_past,
        without_anchors,
    ],
)
def test_a_proved_signer_is_kept_until_its_successor_is_proved(
    rig: Rig, attack: Callable[[Rig], None]
) -> None:
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    forge_one_beside(rig)
    document = rig.sim.get(KEYS + "alice/")[1]
    attack(rig)
    rig.sim.documents[KEYS + "alice/"] = document
    answer = rig.ask(agent=agent)
    assert answer.lines == (ALICES_KEY.line,)
    assert [d.reason for d in answer.decisions] == [None, Reason.BAD_SIGNATURE]
    assert rig.ask(agent=agent).lines == (ALICES_KEY.line,)


def test_what_the_old_signer_signed_is_good_for_every_lookup_of_a_login(rig: Rig) -> None:
    """Where it rotates between a push and the login: sshd asks twice."""
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    old_key = rig.sim.pki.leaf.key
    assert isinstance(old_key, RSAPrivateKey)
    rig.sim.rotate_signer()
    rig.sim.push("bob", new_key())
    assert rig.ask("bob", agent=agent).lines
    rig.sim.keys["alice"][0].signing_key = old_key
    for _ in range(2):
        assert rig.ask(agent=agent).lines == (ALICES_KEY.line,)


def test_the_old_signer_is_kept_no_longer_than_what_it_signed_is_pushed(rig: Rig) -> None:
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    old_key = rig.sim.pki.leaf.key
    assert isinstance(old_key, RSAPrivateKey)
    rig.sim.rotate_signer()
    rig.sim.push("bob", new_key())
    assert rig.ask("bob", agent=agent).lines
    rig.pass_time(61)
    rig.sim.keys["alice"][0].signing_key = old_key
    rig.sim.keys["alice"][0].expires = int(NOW) + 120
    assert rig.refusals(agent=agent) == [Reason.BAD_SIGNATURE]


def test_a_signer_that_is_revoked_is_not_kept_beside_its_successor(rig: Rig) -> None:
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    old = rig.sim.pki.leaf
    assert isinstance(old.key, RSAPrivateKey)
    rig.sim.rotate_signer()
    rig.sim.push("bob", new_key())
    assert rig.ask("bob", agent=agent).lines
    rig.sim.chain[0] = rig.sim.pki.leaf = old
    rig.sim.staples["leaf"] = type(rig.sim.staples["leaf"])(old, status=OCSPCertStatus.REVOKED)
    agent.signers._refetched = float("-inf")
    forge_one_beside(rig)
    assert set(rig.refusals(agent=agent)) == {Reason.REVOKED}
    assert len(agent.signers._held()) == 1


def test_a_signer_that_turns_out_revoked_when_fetched_again_costs_every_key(rig: Rig) -> None:
    agent = rig.agent()
    assert rig.ask(agent=agent).lines
    bad = rig.sim.push("alice", new_key())
    bad.tamper = lambda text: text.replace(b"alice", b"cecil")
    rig.sim.staples["leaf"].status = type(rig.sim.staples["leaf"].status).REVOKED
    assert rig.refusals(agent=agent) == [Reason.REVOKED, Reason.REVOKED]


# Callers


def test_the_caller_policy_speaks_of_the_verified_caller(rig: Rig) -> None:
    rule = CallerRule(("alice",), ("arn:aws:iam::123456789012:role/Admin",))
    policy = Policy(callers=(rule,))
    rules = rig.rules
    rig.rules = rules.__class__(policy, rules.trust, rules.sysfs_root, rules.deadline_s)
    assert rig.ask().lines
    other = "arn:aws:iam::123456789012:user/mallory"
    rig.sim.keys["alice"][0].caller = other
    decision = only(rig.ask())
    assert decision.reason is Reason.CALLER_NOT_ALLOWED
    assert decision.caller == other


# Metadata that does not answer


def test_metadata_that_is_not_there_leaves_everything_undecided(rig: Rig) -> None:
    answer = rig.ask(agent=rig.agent(endpoint="http://127.0.0.1:9", timeout_s=0.5))
    assert answer.undecided is Reason.METADATA_UNAVAILABLE
    assert (answer.lines, answer.decisions) == ((), ())


@pytest.mark.parametrize(
    "path", ["instance-id/", "managed-ssh-keys/signer-cert/", "services/domain/"]
)
def test_a_document_that_is_missing_is_undecided_and_named(rig: Rig, path: str) -> None:
    rig.sim.documents["/latest/meta-data/" + path] = None
    answer = rig.ask()
    assert answer.undecided is Reason.METADATA_UNAVAILABLE
    assert path.rstrip("/").rsplit("/", 1)[-1] in answer.detail


def test_a_lookup_ends_at_its_deadline(rig: Rig) -> None:
    rig.sim.latency_s = 3
    answer = rig.agent().lookup(Question("alice"), Deadline.after(0.2))
    assert answer.undecided is Reason.METADATA_UNAVAILABLE


def test_more_blocks_than_can_be_read_in_time_are_left_unread(rig: Rig) -> None:
    rig.sim.documents[KEYS + "alice/"] = b"#\n\n" * 1000
    agent = rig.agent()
    assert len(rig.ask(agent=agent).decisions) == 11  # and everything is known that is kept
    seen = 0

    def trace(step: int, outcome: str, **facts: object) -> None:
        nonlocal seen
        seen += step == 6
        if seen == 100:
            object.__setattr__(deadline, "at", 0.0)

    deadline = Deadline.after(60)
    answer = agent.lookup(Question("alice"), deadline, trace)
    assert answer.undecided is Reason.METADATA_UNAVAILABLE
    assert seen == 100


def test_anchors_that_are_missing_are_an_invalid_configuration(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "anchors.pem").unlink()
    answer = rig.ask()
    assert answer.undecided is Reason.INVALID_CONFIG
    assert "anchors.pem" in answer.detail


def test_many_lookups_at_once_share_requests(rig: Rig) -> None:
    agent = rig.agent()
    rig.sim.latency_s = 0.05
    answers = []

    def ask() -> None:
        answers.append(rig.ask(key=ALICES_KEY, agent=agent))

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.lines for answer in answers] == [(ALICES_KEY.line,)] * 50
    assert rig.sim.most_concurrent[KEYS + "alice/"] <= 2
    assert agent.signers.fetches == 1


def test_counters_tell_what_happened(rig: Rig) -> None:
    agent = rig.agent()
    rig.ask(agent=agent)
    rig.ask("bob", agent=agent)
    rig.now += 100
    rig.ask(agent=agent)
    assert agent.counters.lookups == 3
    assert agent.counters.granted == 1
    assert agent.counters.refused == {"expired": 1}
    assert len(agent.counters.latencies_s) == 3
