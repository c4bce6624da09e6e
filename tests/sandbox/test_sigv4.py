"""A signature is believed only if it is that of this very request, by a known key, in time."""

import dataclasses
import datetime
from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from eic_sandbox.iam import Principal
from eic_sandbox.sigv4 import (
    Fault,
    SignatureRefused,
    SignedRequest,
    verify_headers,
    verify_url,
)

ALICE = Principal("arn:aws:iam::123456789012:user/alice", "AKIAALICE", "alice's secret")
GUEST = dataclasses.replace(ALICE, access_key_id="ASIAGUEST", session_token="token")
REGION, SERVICE = "us-east-1", "ec2-instance-connect"
URL = "http://127.0.0.1:8080/"
TUNNEL = "wss://localhost:8443/openTunnel?"
QUERY = {"remotePort": "22", "privateIpAddress": "172.31.0.10"}


def signer_of(access_key_id: str) -> Principal | None:
    return {p.access_key_id: p for p in (ALICE, GUEST)}.get(access_key_id)


def credentials(who: Principal) -> Credentials:
    return Credentials(who.access_key_id, who.secret_access_key, who.session_token)


def signed(
    who: Principal = ALICE, region: str = REGION, service: str = SERVICE
) -> tuple[SignedRequest, float]:
    """Sign a call as botocore does, and say when that was."""
    request = AWSRequest("POST", URL, {"X-Amz-Target": "x", "Host": "127.0.0.1:8080"}, b"{}")
    SigV4Auth(credentials(who), service, region).add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    return SignedRequest("POST", URL, headers, b"{}"), moment_of(headers["x-amz-date"])


def presigned(
    who: Principal = ALICE, expires_s: int = 60, region: str = REGION
) -> tuple[SignedRequest, float]:
    request = AWSRequest("GET", TUNNEL + urlencode(QUERY), {"Host": "localhost:8443"})
    SigV4QueryAuth(credentials(who), SERVICE, region, expires=expires_s).add_auth(request)
    url = str(request.url)
    moment = moment_of(url.partition("X-Amz-Date=")[2][:16])
    return SignedRequest("GET", url, {"host": "localhost:8443"}), moment


def moment_of(text: str) -> float:
    return datetime.datetime.strptime(text + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()


def check(request: SignedRequest, now: float) -> str:
    return verify_headers(request, signer_of, now, REGION, [SERVICE])


def check_url(request: SignedRequest, now: float) -> str:
    return verify_url(request, signer_of, now, REGION, SERVICE, 60)


def fault(
    verify: Callable[[SignedRequest, float], str], request: SignedRequest, now: float
) -> Fault:
    with pytest.raises(SignatureRefused) as caught:
        verify(request, now)
    return caught.value.fault


def with_header(request: SignedRequest, name: str, value: str) -> SignedRequest:
    return dataclasses.replace(request, headers={**request.headers, name: value})


@pytest.mark.parametrize("who", [ALICE, GUEST])
def test_what_botocore_signs_is_believed(who: Principal) -> None:
    assert check(*signed(who)) == who.access_key_id
    assert check_url(*presigned(who)) == who.access_key_id


def test_any_change_after_signing_is_noticed() -> None:
    request, now = signed()
    changed = [
        dataclasses.replace(request, body=b'{"InstanceOSUser": "root"}'),
        dataclasses.replace(request, method="PUT"),
        dataclasses.replace(request, url=URL + "?x=1"),
        with_header(request, "x-amz-target", "y"),
        with_header(request, "host", "elsewhere"),
    ]
    assert {fault(check, other, now) for other in changed} == {Fault.MISMATCH}
    request, now = presigned()
    urls = [
        request.url.replace("172.31.0.10", "172.31.0.11"),
        request.url.replace("remotePort=22", "remotePort=3389"),
        request.url + "&maxTunnelDuration=3600",
        request.url.replace("/openTunnel", "/other"),
    ]
    changed = [dataclasses.replace(request, url=url) for url in urls]
    changed.append(with_header(request, "host", "elsewhere"))
    assert {fault(check_url, other, now) for other in changed} == {Fault.MISMATCH}


def test_a_header_of_amazons_that_was_not_signed_is_refused() -> None:
    request, now = signed()
    assert fault(check, with_header(request, "x-amz-new", "1"), now) is Fault.MISMATCH


def test_the_hash_of_the_body_that_a_client_claims_is_checked() -> None:
    request = AWSRequest("POST", URL, {"Host": "127.0.0.1:8080"}, b"{}")
    request.headers["X-Amz-Content-SHA256"] = "UNSIGNED-PAYLOAD"
    SigV4Auth(credentials(ALICE), SERVICE, REGION).add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    now = moment_of(headers["x-amz-date"])
    assert fault(check, SignedRequest("POST", URL, headers, b"{}"), now) is Fault.MISMATCH


def test_an_unknown_key_and_a_missing_or_wrong_session_token_are_nobodys() -> None:
    stranger = dataclasses.replace(ALICE, access_key_id="AKIASTRANGER")
    no_token = dataclasses.replace(GUEST, session_token=None)
    wrong_token = dataclasses.replace(GUEST, session_token="other")
    for who in (stranger, no_token, wrong_token):
        assert fault(check, *signed(who)) is Fault.UNKNOWN_KEY
        assert fault(check_url, *presigned(who)) is Fault.UNKNOWN_KEY


def test_the_scope_must_be_ours() -> None:
    assert fault(check, *signed(region="eu-west-1")) is Fault.MISMATCH
    assert fault(check, *signed(service="ec2")) is Fault.MISMATCH
    assert fault(check_url, *presigned(region="eu-west-1")) is Fault.MISMATCH


@pytest.mark.parametrize("off_s", [-301.0, 301.0])
def test_a_clock_more_than_five_minutes_off_is_refused(off_s: float) -> None:
    request, now = signed()
    assert fault(check, request, now + off_s) is Fault.EXPIRED
    assert check(request, now + off_s * 0.99) == ALICE.access_key_id


def test_a_presigned_url_is_good_for_the_time_it_says_and_no_longer() -> None:
    request, now = presigned(expires_s=60)
    assert check_url(request, now + 59.9) == ALICE.access_key_id
    assert fault(check_url, request, now + 60.0) is Fault.EXPIRED
    assert fault(check_url, request, now - 301.0) is Fault.EXPIRED
    assert fault(check_url, *presigned(expires_s=3600)) is Fault.INCOMPLETE


def test_what_is_no_signature_is_named_as_such() -> None:
    request, now = signed()
    assert fault(check, SignedRequest("POST", URL), now) is Fault.MISSING
    for authorization in ("Bearer x", "AWS4-HMAC-SHA256 Credential=a/b", "AWS4-HMAC-SHA256"):
        broken = with_header(request, "authorization", authorization)
        assert fault(check, broken, now) is Fault.INCOMPLETE
    broken = with_header(request, "x-amz-date", "20251301T000000Z")
    assert fault(check, broken, now) in (Fault.INCOMPLETE, Fault.MISMATCH)
    assert fault(check_url, SignedRequest("GET", TUNNEL), now) is Fault.MISSING
    bare = SignedRequest("GET", TUNNEL + "X-Amz-Signature=00")
    assert fault(check_url, bare, now) is Fault.INCOMPLETE
