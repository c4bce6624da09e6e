"""AWS Signature Version 4, checked for real: in headers as for the API, in a URL as for the tunnel.

botocore's own implementation computes the signature that should be there; what is around it
(which headers must be signed, the scope, the age) is checked here. The messages are AWS's.
"""

import datetime
import enum
import hashlib
import hmac
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_SKEW_S = 300.0
_TIME_FORMAT = "%Y%m%dT%H%M%SZ"
_FIELD = re.compile(r"(Credential|SignedHeaders|Signature)=([^,\s]+)")


class Fault(enum.Enum):
    """What is wrong with a signature; every API has error codes of its own for these."""

    MISSING = "there is no signature"
    INCOMPLETE = "a part of the signature is missing or not well-formed"
    UNKNOWN_KEY = "the access key or the session token is nobody's"
    EXPIRED = "the signature is too old or not yet valid"
    MISMATCH = "the signature is not that of this request"


class SignatureRefused(Exception):
    """The request is not from whom it claims to be from."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class Signer(Protocol):
    """Whoever may sign requests."""

    @property
    def access_key_id(self) -> str: ...

    @property
    def secret_access_key(self) -> str: ...

    @property
    def session_token(self) -> str | None: ...


@dataclass(frozen=True)
class SignedRequest:
    """What was signed; header names in lower case, `url` with scheme and host."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class _Signature:
    access_key_id: str
    date: str
    region: str
    service: str
    moment: str
    signed_headers: tuple[str, ...]
    signature: str
    token: str | None


def verify_headers(
    request: SignedRequest,
    signer_of: Callable[[str], Signer | None],
    now: float,
    region: str,
    services: Collection[str],
) -> str:
    """Check a request signed in its Authorization header, and give the access key id.

    `now` is in seconds since the epoch. Raises SignatureRefused.
    """
    authorization = request.headers.get("authorization", "")
    if not authorization:
        raise SignatureRefused(Fault.MISSING, "Missing Authentication Token")
    algorithm, _, rest = authorization.partition(" ")
    fields = dict(_FIELD.findall(rest))
    moment = request.headers.get("x-amz-date", "")
    if algorithm != ALGORITHM or len(fields) != 3 or not moment:
        raise SignatureRefused(
            Fault.INCOMPLETE,
            f"Authorization header requires '{ALGORITHM}' with 'Credential', 'SignedHeaders' and "
            "'Signature' parameters, and an 'X-Amz-Date' header.",
        )
    found = _signature(
        fields["Credential"],
        moment,
        fields["SignedHeaders"],
        fields["Signature"],
        request.headers.get("x-amz-security-token"),
    )
    signer = _signer(found, signer_of, region, services)
    age_s = now - _seconds(found)
    if abs(age_s) > MAX_SKEW_S:
        what = "Signature expired" if age_s > 0 else "Signature not yet current"
        than = "earlier" if age_s > 0 else "later"
        raise SignatureRefused(
            Fault.EXPIRED,
            f"{what}: {found.moment} is now {than} than the {MAX_SKEW_S / 60:.0f} min. accepted "
            f"around {_text(now)}",
        )
    must_be_signed = {"host", *(name for name in request.headers if name.startswith("x-amz-"))}
    for name in sorted(must_be_signed - set(found.signed_headers)):
        raise SignatureRefused(
            Fault.MISMATCH,
            f"'{name}' must be a 'SignedHeader' in the AWS Authorization.",
        )
    digest = hashlib.sha256(request.body).hexdigest()
    if request.headers.get("x-amz-content-sha256", digest) != digest:
        raise SignatureRefused(
            Fault.MISMATCH,
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )
    _compare(request, found, signer)
    return found.access_key_id


def verify_url(
    request: SignedRequest,
    signer_of: Callable[[str], Signer | None],
    now: float,
    region: str,
    service: str,
    max_lifetime_s: int,
) -> str:
    """Check a presigned URL and give the access key id; raises SignatureRefused.

    One that claims to be good for longer than max_lifetime_s is refused at once.
    """
    parts = urlsplit(request.url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "X-Amz-Signature" not in query:
        raise SignatureRefused(Fault.MISSING, "Missing Authentication Token")
    lifetime = query.get("X-Amz-Expires", "")
    if query.get("X-Amz-Algorithm") != ALGORITHM or not re.fullmatch(r"[0-9]{1,6}", lifetime):
        raise SignatureRefused(
            Fault.INCOMPLETE,
            f"AWS query-string parameters must include X-Amz-Algorithm={ALGORITHM}, "
            "X-Amz-Credential, X-Amz-Date, X-Amz-Expires, X-Amz-SignedHeaders, X-Amz-Signature.",
        )
    found = _signature(
        query.get("X-Amz-Credential", ""),
        query.get("X-Amz-Date", ""),
        query.get("X-Amz-SignedHeaders", ""),
        query["X-Amz-Signature"],
        query.get("X-Amz-Security-Token"),
    )
    signer = _signer(found, signer_of, region, [service])
    if not 1 <= int(lifetime) <= max_lifetime_s:
        raise SignatureRefused(
            Fault.INCOMPLETE,
            f"X-Amz-Expires must be between 1 and {max_lifetime_s} seconds",
        )
    age_s = now - _seconds(found)
    if not -MAX_SKEW_S <= age_s < int(lifetime):
        raise SignatureRefused(
            Fault.EXPIRED,
            f"Signature expired: signed at {found.moment} for {lifetime} seconds, "
            f"and it is {_text(now)}",
        )
    if "host" not in found.signed_headers:
        raise SignatureRefused(
            Fault.MISMATCH,
            "'host' must be a 'SignedHeader' in the AWS Authorization.",
        )
    unsigned = "&".join(
        pair for pair in parts.query.split("&") if not pair.startswith("X-Amz-Signature=")
    )
    without = SignedRequest(
        request.method, urlunsplit(parts._replace(query=unsigned)), request.headers, request.body
    )
    _compare(without, found, signer)
    return found.access_key_id


def _signature(
    credential: str, moment: str, signed_headers: str, signature: str, token: str | None
) -> _Signature:
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request" or not re.fullmatch(r"\d{8}T\d{6}Z", moment):
        raise SignatureRefused(
            Fault.INCOMPLETE,
            "Credential must have exactly 5 slash-delimited elements, "
            "e.g. keyid/date/region/service/aws4_request, and the date must be ISO 8601 basic",
        )
    key_id, date, region, service, _ = parts
    names = tuple(signed_headers.lower().split(";"))
    return _Signature(key_id, date, region, service, moment, names, signature, token)


def _signer(
    found: _Signature,
    signer_of: Callable[[str], Signer | None],
    region: str,
    services: Collection[str],
) -> Signer:
    signer = signer_of(found.access_key_id)
    if signer is None or not hmac.compare_digest(
        (signer.session_token or "").encode(), (found.token or "").encode()
    ):
        raise SignatureRefused(
            Fault.UNKNOWN_KEY,
            "The security token included in the request is invalid.",
        )
    wrong = ""
    if found.region != region:
        wrong = f"Credential should be scoped to a valid region, not '{found.region}'."
    elif found.service not in services:
        wrong = f"Credential should be scoped to correct service: {' or '.join(sorted(services))}."
    elif not found.moment.startswith(found.date):
        wrong = f"Date in Credential scope does not match {found.moment}."
    if wrong:
        raise SignatureRefused(Fault.MISMATCH, wrong)
    return signer


def _compare(request: SignedRequest, found: _Signature, signer: Signer) -> None:
    headers = {name: request.headers.get(name, "") for name in found.signed_headers}
    again = AWSRequest(request.method, request.url, headers, request.body)
    again.context["timestamp"] = found.moment
    credentials = Credentials(signer.access_key_id, signer.secret_access_key)
    auth = SigV4Auth(credentials, found.service, found.region)
    text = auth.string_to_sign(again, auth.canonical_request(again))
    expected = auth.signature(text, again)
    if not hmac.compare_digest(expected.encode(), found.signature.encode()):
        raise SignatureRefused(
            Fault.MISMATCH,
            "The request signature we calculated does not match the signature you provided. "
            "Check your AWS Secret Access Key and signing method. "
            "Consult the service documentation for details.",
        )


def _seconds(found: _Signature) -> float:
    try:
        moment = datetime.datetime.strptime(found.moment + "+0000", f"{_TIME_FORMAT}%z")
    except ValueError:
        raise SignatureRefused(Fault.INCOMPLETE, f"{found.moment} is no date") from None
    return moment.timestamp()


def _text(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc)
    return moment.strftime(_TIME_FORMAT)
