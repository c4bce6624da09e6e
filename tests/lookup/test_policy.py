"""What may be granted: users, the checks of a block, callers, and the line for sshd."""

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eic_agent.errors import Reason
from eic_agent.lookup.keyblock import KeyBlock
from eic_agent.lookup.policy import (
    CallerRule,
    Claim,
    Grant,
    KeyRules,
    Policy,
    Refusal,
    Subject,
    UserRules,
    check_block,
    check_user,
    decide,
)
from eic_agent.lookup.users import Account, Group

NOW = 1_700_000_000.0
ID = "i-0123456789abcdef0"
ALICE = "arn:aws:sts::123456789012:assumed-role/Admin/alice"


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


BLOB = string(b"ssh-ed25519") + string(b"k" * 32)
ED25519 = "ssh-ed25519 " + base64.b64encode(BLOB).decode()


def rsa(bits: int) -> str:
    modulus = (1 << (bits - 1)) | 1
    blob = string(b"ssh-rsa") + string(b"\1\0\1") + string(modulus.to_bytes(bits // 8 + 1, "big"))
    return "ssh-rsa " + base64.b64encode(blob).decode()


def block(
    expires: float = NOW + 60,
    instance: str = ID,
    key: str = ED25519,
    caller: str | None = ALICE,
    request: str | None = "request",
) -> KeyBlock:
    return KeyBlock(int(expires), instance, caller, request, key.encode(), b"", b"")


def check(
    checked: KeyBlock, fingerprint: str | None = None, rules: KeyRules | None = None
) -> Claim | Refusal:
    return check_block(checked, ID, fingerprint, rules or KeyRules(), NOW)


def reason(outcome: object) -> Reason | None:
    return outcome.reason if isinstance(outcome, Refusal) else None


def nobody_asks(user: str) -> Account | None:
    raise AssertionError("asked for the account without need")


@pytest.mark.parametrize(
    "user", ["a", "_", "ec2-user", "a.b@c", "svc$", "1a", "0" * 31 + "a", "1@"]
)
def test_a_name_that_the_api_takes_is_addressable(user: str) -> None:
    assert check_user(user, Policy(), nobody_asks) == Subject(user)


@pytest.mark.parametrize(
    "user",
    [
        *("", "1", "007", "-a", ".", "..", "a/b", "a b", "ü", "a\n", "a" * 33, "$", "a$b"),
        *("CORP\\bob", "0" * 32 + "a", "a\0", "\udcff"),
    ],
)
def test_any_other_name_is_unaddressable(user: str) -> None:
    refusal = check_user(user, Policy(), nobody_asks)
    assert reason(refusal) is Reason.UNADDRESSABLE_USER


@given(st.text())
def test_any_name_is_judged(user: str) -> None:
    refusal = check_user(user, Policy(), nobody_asks)
    assert reason(refusal) in (None, Reason.UNADDRESSABLE_USER)


ACCOUNTS = {
    "alice": Account(1000, (Group(1000, "staff"), Group(10, "wheel"))),
    "bob": Account(1001, (Group(1001, "guests"),)),
    "eve": Account(1002, (Group(1001, "guests"), Group(4711, None))),
    "root": Account(0, (Group(0, "root"),)),
    "toor": Account(0, (Group(0, "root"),)),
}
EVERYBODY = set(ACCOUNTS)


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        (UserRules(), EVERYBODY),
        (UserRules(allow_users=("al*",)), {"alice"}),
        (UserRules(deny_users=("al*",)), EVERYBODY - {"alice"}),
        (UserRules(allow_users=("*",), deny_users=("bob",)), EVERYBODY - {"bob"}),
        (UserRules(allow_groups=("wheel", "nobody")), {"alice"}),
        (UserRules(allow_groups=("guests",)), {"bob", "eve"}),
        (UserRules(deny_groups=("st[a-z]ff",)), EVERYBODY - {"alice", "eve"}),
        (UserRules(allow_groups=("*",), deny_groups=("wheel",)), {"bob", "root", "toor"}),
        (UserRules(allow_users=("bob",), allow_groups=("wheel",)), set()),
        (UserRules(allow_users=("ALICE",)), set()),
        # Ids.
        (UserRules(deny_users=("root",)), EVERYBODY - {"root"}),
        (UserRules(deny_users=("0",)), EVERYBODY - {"root", "toor"}),
        (UserRules(allow_users=("0", "bob")), {"root", "toor", "bob"}),
        (UserRules(allow_users=("1",)), set()),
        (UserRules(deny_users=("9" * 5000,), deny_groups=("9" * 5000,)), EVERYBODY - {"eve"}),
        (UserRules(deny_groups=("10",)), EVERYBODY - {"alice"}),
        (UserRules(deny_groups=("4711",)), EVERYBODY - {"eve"}),
        (UserRules(deny_groups=("4711", "10")), EVERYBODY - {"eve", "alice"}),
        (UserRules(deny_groups=("10", "none")), EVERYBODY - {"eve", "alice"}),
        (UserRules(allow_groups=("4711",)), {"eve"}),
        (UserRules(allow_groups=("*",)), EVERYBODY),
    ],
)
def test_all_four_lists_must_let_a_user_pass(rules: UserRules, allowed: set[str]) -> None:
    for user, account in ACCOUNTS.items():
        outcome = check_user(user, Policy(users=rules), ACCOUNTS.__getitem__)
        assert reason(outcome) is (None if user in allowed else Reason.USER_NOT_ALLOWED)
        if user in allowed:
            assert outcome in (Subject(user), Subject(user, account))


def test_a_group_without_a_name_passes_no_names_that_are_denied() -> None:
    outcome = check_user("eve", Policy(users=UserRules(deny_groups=("x",))), ACCOUNTS.__getitem__)
    assert isinstance(outcome, Refusal)
    assert "group 4711, which has no name" in outcome.detail


@pytest.mark.parametrize(
    "policy",
    [
        Policy(users=UserRules(deny_groups=("wheel",))),
        Policy(users=UserRules(allow_groups=("*",))),
        Policy(users=UserRules(deny_users=("0",))),
        Policy(users=UserRules(allow_users=("*", "0"))),
        Policy(callers=(CallerRule(("0",), ("*",)),)),
    ],
)
def test_a_user_whom_nobody_knows_passes_no_rule_on_groups_or_ids(policy: Policy) -> None:
    """The user database may be the one that is down."""
    assert reason(check_user("eve", policy, lambda _user: None)) is Reason.USER_NOT_ALLOWED


def test_a_user_who_is_denied_by_name_costs_no_question() -> None:
    policy = Policy(users=UserRules(deny_users=("eve",), deny_groups=("x",)))
    assert reason(check_user("eve", policy, nobody_asks)) is Reason.USER_NOT_ALLOWED


def test_a_block_in_order_is_a_claim() -> None:
    claim = check(block())
    assert isinstance(claim, Claim)
    assert claim.key.authorized_key == ED25519
    assert isinstance(check(block(), fingerprint=claim.fingerprint), Claim)


def test_another_key_than_the_one_asked_for_is_passed_over() -> None:
    refusal = check(block(expires=0, instance="i-other"), fingerprint="SHA256:something")
    assert reason(refusal) is Reason.OTHER_KEY


def test_a_block_for_another_instance_is_refused() -> None:
    assert reason(check(block(instance="i-0fedcba987654321f"))) is Reason.OTHER_INSTANCE
    assert reason(check(block(instance=ID + " "))) is Reason.OTHER_INSTANCE


@pytest.mark.parametrize(
    ("expires", "refused"),
    [
        (NOW - 1000, Reason.EXPIRED),
        (NOW, Reason.EXPIRED),
        (NOW + 1, None),
        (NOW + 300, None),
        (NOW + 301, Reason.EXPIRES_TOO_LATE),
        (NOW + 3600, Reason.EXPIRES_TOO_LATE),
    ],
)
def test_a_key_is_good_until_its_expiry_and_for_no_longer_than_allowed(
    expires: float, refused: Reason | None
) -> None:
    assert reason(check(block(expires=expires))) is refused


def test_the_lifetime_that_is_allowed_is_configured() -> None:
    hour = block(expires=NOW + 3600)
    assert reason(check(hour, rules=KeyRules(max_lifetime_s=3600))) is None
    assert reason(check(hour, rules=KeyRules(max_lifetime_s=0))) is None
    short = KeyRules(max_lifetime_s=60, clock_skew_s=0)
    assert reason(check(block(expires=NOW + 60), rules=short)) is None
    assert reason(check(block(expires=NOW + 61), rules=short)) is Reason.EXPIRES_TOO_LATE


@pytest.mark.parametrize("key", ["ssh-ed25519", "ssh-ed25519 *", "ssh-ed25519 AAAA", rsa(2040)])
def test_a_key_that_is_none_or_too_short_is_refused(key: str) -> None:
    assert reason(check(block(key=key))) is Reason.KEY_NOT_ALLOWED


def test_types_and_rsa_sizes_are_configured() -> None:
    assert reason(check(block(key=rsa(2048)))) is None
    assert reason(check(block(key=rsa(2048)), rules=KeyRules(min_rsa_bits=3072))) is (
        Reason.KEY_NOT_ALLOWED
    )
    refusal = check(block(key=rsa(2048)), rules=KeyRules(types=("ssh-ed25519",)))
    assert reason(refusal) is Reason.KEY_NOT_ALLOWED


def decided(checked: KeyBlock, policy: Policy, user: str = "alice", now: float = NOW) -> object:
    claim = check(checked)
    assert isinstance(claim, Claim)
    return decide(claim, Subject(user, ACCOUNTS.get(user)), policy, now)


def test_a_grant_is_the_key_re_encoded() -> None:
    grant = decided(block(key=ED25519 + " comment"), Policy())
    assert isinstance(grant, Grant)
    assert grant.line == ED25519


def test_a_key_that_expired_while_its_signer_was_verified_is_refused() -> None:
    assert reason(decided(block(), Policy(), now=NOW + 60)) is Reason.EXPIRED


def test_options_come_before_the_key() -> None:
    keys = KeyRules(options=("restrict", "pty"), export_caller=True)
    grant = decided(block(), Policy(keys))
    assert isinstance(grant, Grant)
    exported = f'environment="EIC_CALLER={ALICE}",environment="EIC_REQUEST=request"'
    assert grant.line == f"restrict,pty,{exported} {ED25519}"
    without = decided(block(caller=None, request=None), Policy(keys))
    assert isinstance(without, Grant)
    assert without.line == f"restrict,pty {ED25519}"


@given(st.text())
def test_an_exported_caller_cannot_leave_its_quotes(caller: str) -> None:
    exporting = Policy(KeyRules(export_caller=True))
    grant = decided(block(caller=caller, request=caller), exporting)
    assert isinstance(grant, Grant)
    options, _, key = grant.line.partition(" ")
    assert key == ED25519
    assert options.count('"') == 4
    assert options.isprintable()
    assert options.isascii()


ADMINS = ("arn:aws:iam::123456789012:role/Admin",)


def test_a_rule_names_the_principals_that_may_push() -> None:
    policy = Policy(callers=(CallerRule(("root",), ADMINS),))
    assert reason(decided(block(), policy, user="root")) is None
    other = block(caller=ALICE.replace("Admin", "Admin2"))
    assert reason(decided(other, policy, user="root")) is Reason.CALLER_NOT_ALLOWED
    for nobody in ((), ADMINS, ("*",)):
        policy = Policy(callers=(CallerRule(("root",), nobody),))
        refusal = decided(block(caller=None), policy, user="root")
        assert reason(refusal) is Reason.CALLER_NOT_ALLOWED


def test_the_first_rule_whose_users_match_decides_and_others_are_free() -> None:
    rules = (CallerRule(("root", "adm*"), ADMINS), CallerRule(("*",), ()))
    policy = Policy(callers=rules)
    assert reason(decided(block(), policy, user="root")) is None
    assert reason(decided(block(), policy, user="admin")) is None
    assert reason(decided(block(), policy, user="bob")) is Reason.CALLER_NOT_ALLOWED
    assert reason(decided(block(), Policy(callers=rules[:1]), user="bob")) is None


def test_a_rule_on_an_id_decides_about_every_user_who_has_it() -> None:
    policy = Policy(callers=(CallerRule(("0",), ()), CallerRule(("*",), ("*",))))
    for user in ("root", "toor"):
        assert reason(decided(block(), policy, user=user)) is Reason.CALLER_NOT_ALLOWED
    assert reason(decided(block(), policy, user="bob")) is None
