"""Policies decide as IAM does, and what the sandbox does not understand it does not pass over."""

import json
from pathlib import Path
from typing import Any

import pytest

from eic_sandbox import iam
from eic_sandbox.iam import OPEN_TUNNEL, OS_USER, SEND_SSH_PUBLIC_KEY, AccessDenied, Principal

ARN = "arn:aws:iam::123456789012:user/bob"
INSTANCE = "arn:aws:ec2:us-east-1:123456789012:instance/i-0123456789abcdef0"
ALLOW_ALL = {"Effect": "Allow", "Action": "*", "Resource": "*"}


def load(tmp_path: Path, *statements: object, **changed: object) -> Principal:
    entry = {
        "arn": ARN,
        "access_key_id": "AKIABOB",
        "secret_access_key": "secret",
        "policy": {"Version": "2012-10-17", "Statement": list(statements)},
        **changed,
    }
    path = tmp_path / "iam.json"
    path.write_text(json.dumps({"principals": [entry]}))
    (principal,) = iam.load(path)
    return principal


def allowed(
    principal: Principal,
    os_user: str = "ec2-user",
    resource: str = INSTANCE,
    action: str = SEND_SSH_PUBLIC_KEY,
    **context: str,
) -> bool:
    try:
        principal.authorize(action, resource, {OS_USER: os_user, **context})
    except AccessDenied:
        return False
    return True


def statement(operator: str, key: str, *values: object, effect: str = "Allow") -> dict[str, Any]:
    condition = {operator: {key: list(values)}}
    return {"Effect": effect, "Action": "*", "Resource": "*", "Condition": condition}


def test_without_a_statement_nothing_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(AccessDenied, match=f"{ARN} is not authorized.*no identity-based policy"):
        load(tmp_path).authorize(SEND_SSH_PUBLIC_KEY, INSTANCE, {})


def test_the_os_user_decides(tmp_path: Path) -> None:
    bob = load(tmp_path, statement("StringEquals", "ec2:osuser", "ec2-user", "app"))
    assert allowed(bob, "ec2-user")
    assert allowed(bob, "app")
    assert not allowed(bob, "root")
    assert not allowed(bob, "EC2-USER")


def test_a_deny_beats_every_allow(tmp_path: Path) -> None:
    deny = statement("StringEquals", "ec2:osuser", "root", effect="Deny")
    bob = load(tmp_path, ALLOW_ALL, deny)
    assert allowed(bob, "ec2-user")
    assert not allowed(bob, "root")


def test_actions_and_resources_are_patterns(tmp_path: Path) -> None:
    entry = {"Effect": "Allow", "Action": ["ec2-instance-connect:send*"]}
    bob = load(tmp_path, {**entry, "Resource": [INSTANCE[:-1] + "?"]})
    assert allowed(bob)
    assert allowed(bob, resource=INSTANCE[:-1] + "1")
    assert not allowed(bob, resource=INSTANCE + "1")
    assert not allowed(bob, action=OPEN_TUNNEL)


@pytest.mark.parametrize(
    ("operator", "key", "value", "holds", "fails"),
    [
        ("StringLike", "ec2:osuser", "app-*", "app-1", "web"),
        ("StringLike", "ec2:osuser", "a[b]", "a[b]", "ab"),
        ("StringNotLike", "ec2:osuser", "app-*", "web", "app-1"),
        ("StringNotEquals", "EC2:OSUser", "root", "web", "root"),
        ("StringEqualsIgnoreCase", "ec2:osuser", "Web", "web", "root"),
        ("NumericEquals", "ec2-instance-connect:remotePort", 22, "22", "3389"),
        ("NumericLessThanEquals", "ec2-instance-connect:maxTunnelDuration", "60", "60", "61"),
        (
            "IpAddress",
            "ec2-instance-connect:privateIpAddress",
            "10.0.0.0/8",
            "10.1.1.1",
            "11.1.1.1",
        ),
        ("NotIpAddress", "aws:SourceIp", "10.0.0.0/8", "11.1.1.1", "10.1.1.1"),
    ],
)
def test_each_operator_compares(
    tmp_path: Path, operator: str, key: str, value: object, holds: str, fails: str
) -> None:
    bob = load(tmp_path, statement(operator, key, value))
    assert allowed(bob, **{key.lower(): holds})
    assert not allowed(bob, **{key.lower(): fails})


def test_a_key_that_the_request_lacks_fails_unless_the_operator_is_a_negation(
    tmp_path: Path,
) -> None:
    port = "ec2-instance-connect:remotePort"
    assert not allowed(load(tmp_path, statement("NumericEquals", port, 22)))
    assert allowed(load(tmp_path, statement("NumericNotEquals", port, 22)))


def test_a_value_that_cannot_be_compared_equals_nothing(tmp_path: Path) -> None:
    assert not allowed(load(tmp_path, statement("NumericLessThan", "ec2:osuser", 22)), "web")
    assert not allowed(load(tmp_path, statement("IpAddress", "ec2:osuser", "10.0.0.0/8")), "web")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**ALLOW_ALL, "Effect": "allow"}, "Effect is 'allow'"),
        ({**ALLOW_ALL, "NotAction": "x"}, "no 'NotAction'"),
        (statement("ArnLike", "ec2:osuser", "x"), "no condition operator 'ArnLike'"),
        (statement("StringEquals", "ec2:ResourceTag/a", "x"), "no condition key"),
        (statement("NumericEquals", "ec2:osuser", "x"), "cannot compare with 'x'"),
        (statement("IpAddress", "aws:SourceIp", "x"), "cannot compare with 'x'"),
        ({"Effect": "Allow", "Action": "*"}, "'Resource' is missing"),
    ],
)
def test_what_is_not_understood_is_an_error_that_names_it(
    tmp_path: Path, entry: object, said: str
) -> None:
    with pytest.raises(iam.PolicyError, match=said):
        load(tmp_path, entry)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"arn": "bob"}, "'bob' is no ARN"),
        ({"policy": "x"}, "no JSON object"),
        ({"secret_access_key": ""}, "secret_access_key is ''"),
        ({"password": "x"}, "not 'password'"),
    ],
)
def test_a_principal_that_is_not_well_formed_is_an_error(
    tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    with pytest.raises(iam.PolicyError, match=said):
        load(tmp_path, **changed)


def test_the_file_that_comes_along_has_a_principal_for_everything_and_one_for_less() -> None:
    alice, bob = iam.load(iam.DEFAULT_FILE)
    assert allowed(alice, "root")
    assert allowed(bob, "ec2-user")
    assert not allowed(bob, "root")
    assert not allowed(bob, action=OPEN_TUNNEL)
