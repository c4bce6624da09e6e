"""Which IAM principals a pattern of `policy.rules` names, and which patterns name nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eic_agent.lookup.callers import is_named, names_sessions, why_never

ALICE = "arn:aws:sts::123456789012:assumed-role/Admin/alice"
SSO = "arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Admin_0123456789abcdef/a@example.com"


@pytest.mark.parametrize(
    ("pattern", "caller"),
    [
        ("arn:aws:iam::123456789012:role/Admin", ALICE),
        ("arn:aws:iam::123456789012:role/Admin", "arn:aws:iam::123456789012:role/Admin"),
        ("arn:aws:iam::123456789012:role/Ad*", ALICE),
        ("arn:aws:iam::*:role/Admin", ALICE),
        ("arn:aws:sts::123456789012:assumed-role/Admin/alice", ALICE),
        ("arn:aws:sts::123456789012:assumed-role/Admin/*", ALICE),
        ("arn:aws:sts::*:assumed-role/Admin/a*", ALICE),
        ("arn:aws:sts::123456789012:assumed-role/*/alice", ALICE),
        ("arn:aws:iam::123456789012:role/AWSReservedSSO_Admin_*", SSO),
        ("arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Admin_*/*@example.com", SSO),
        ("arn:aws:iam::123456789012:user/bob", "arn:aws:iam::123456789012:user/bob"),
        ("arn:aws:iam::123456789012:user/ops/*", "arn:aws:iam::123456789012:user/ops/bob"),
        ("arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:root"),
        (
            "arn:aws:sts::123456789012:federated-user/*",
            "arn:aws:sts::123456789012:federated-user/bob",
        ),
        (
            "arn:aws-us-gov:iam::123456789012:role/Admin",
            "arn:aws-us-gov:sts::123456789012:assumed-role/Admin/alice",
        ),
        (
            "arn:aws-cn:sts::123456789012:assumed-role/Admin/*",
            "arn:aws-cn:sts::123456789012:assumed-role/Admin/alice",
        ),
        ("*", ALICE),
        ("*", "what is no ARN"),
    ],
)
def test_a_pattern_names_principals(pattern: str, caller: str) -> None:
    assert is_named(caller, (pattern,))
    assert why_never(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "caller"),
    [
        # The star meant for one part took the next one too.
        ("arn:aws:sts::123456789012:assumed-role/*@example.com", SSO),
        ("arn:aws:sts::123456789012:assumed-role/Adm*", ALICE),
        ("arn:aws:sts::123456789012:assumed-role/D*/alice", ALICE),
        ("arn:aws:sts::123456789012:*", ALICE),
        ("*role/Admin*", ALICE),
        ("arn:aws:*:role/Admin", ALICE),
        ("arn:aws:iam::123456789012:user/*", "arn:aws:iam::123456789012:user/ops/bob"),
        ("arn:aws:sts::123456789012:assumed-role/Admin/*", ALICE + "/more"),
        ("arn:aws:sts::123456789012:assumed-role/Admin/*", ALICE + ":more"),
        ("arn:aws:sts::123456789012:assumed-role/Admin?alice", ALICE),
        ("arn:aws:sts::123456789012:assumed-role/Admin[/]alice", ALICE),
        # Somebody else.
        ("arn:aws:iam::123456789012:role/Admin", ALICE.replace("Admin", "Admin2")),
        ("arn:aws:iam::123456789012:role/Admin", ALICE.replace("1234", "9999")),
        ("arn:aws:iam::123456789012:role/Admin", ALICE.replace("aws:", "aws-cn:")),
        ("arn:aws:iam::123456789012:role/Admin", "arn:aws:iam::123456789012:user/Admin"),
        ("arn:aws:iam::123456789012:role/Admin", ALICE + "/more"),
        ("arn:aws:iam::123456789012:role/Admin", "arn:aws:iam::123456789012:role/ops/Admin"),
        ("arn:aws:iam::123456789012:role/admin", ALICE),
    ],
)
def test_a_pattern_reaches_no_further_than_its_part(pattern: str, caller: str) -> None:
    assert not is_named(caller, (pattern,))
    assert not is_named(caller, ())


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("alice", "is no ARN"),
        ("", "is no ARN"),
        ("**", "is no ARN"),
        ("*role/Admin*", "is no ARN"),
        ("arn:aws:iam:123456789012:role/Admin", "is no ARN"),
        ("ARN:aws:iam::123456789012:role/Admin", "is no ARN"),
        ("arn:asw:iam::123456789012:role/Admin", "partition"),
        ("arn:aws:iam:us-east-1:123456789012:role/Admin", "region"),
        ("arn:aws:iam::1234:role/Admin", "accepted are 12 digits"),
        ("arn:aws:iam:::role/Admin", "accepted are 12 digits"),
        ("arn:aws:iam::123456789012:group/Admins", "names no kind of principal"),
        ("arn:aws:iam::123456789012:assumed-role/Admin/alice", "names no kind of principal"),
        ("arn:aws:sts::123456789012:role/Admin", "names no kind of principal"),
        ("arn:aws:ec2::123456789012:instance/i-1", "names no kind of principal"),
        ("arn:aws:iam::123456789012:role", "has 1 parts behind the account; a role has 2"),
        ("arn:aws:iam::123456789012:root/x", "a root has 1"),
        (
            "arn:aws:iam::123456789012:role/aws-reserved/sso.amazonaws.com/AWSReservedSSO_A_0123",
            "; write arn:aws:iam::123456789012:role/AWSReservedSSO_A_0123, as its session has it",
        ),
        (
            "arn:aws:sts::123456789012:assumed-role/Adm*",
            "for every session arn:aws:sts::123456789012:assumed-role/ROLE/*",
        ),
        ("arn:aws:sts::123456789012:assumed-role/ops/Admin/alice", "has 4 parts where a session"),
    ],
)
def test_a_pattern_that_can_name_nobody_is_told_why(pattern: str, problem: str) -> None:
    assert problem in (why_never(pattern) or "")


def test_wildcards_may_stand_in_any_part() -> None:
    assert why_never("arn:aws*:*::*:*/Admin") is None
    assert why_never("a[r]n:*:i?m::[0-9]*:role/*") is None
    assert is_named("arn:aws:iam::123456789012:role/Admin", ("arn:aws*:*::*:*/Admin",))


@given(st.from_regex(r"[a-z:/*?\[\]0-9]{0,40}", fullmatch=True), st.text())
def test_any_pattern_is_judged_and_what_never_matches_does_not(pattern: str, caller: str) -> None:
    if why_never(pattern) is not None:
        for principal in (ALICE, SSO, "arn:aws:iam::123456789012:user/ops/bob", caller):
            if why_never(principal) is None and principal != "*":
                assert not is_named(principal, (pattern,))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("arn:aws:sts::123456789012:assumed-role/Admin/alice", True),
        ("arn:aws:sts::123456789012:assumed-role/Admin/*@example.com", True),
        ("arn:aws:sts::123456789012:assumed-role/Admin/*", False),
        ("arn:aws:iam::123456789012:role/Admin", False),
        ("*", False),
    ],
)
def test_which_patterns_depend_on_what_a_caller_calls_its_session(
    pattern: str, *, names: bool
) -> None:
    assert names_sessions(pattern) is names
