"""What the API's published model says of SendSSHPublicKey's parameters (service 2018-04-02)."""

import re
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

RSA_BITS = range(2048, 4097)


class InvalidParameter(ValueError):
    """A parameter is not as the model wants it; the text names it."""


@dataclass(frozen=True)
class Shape:
    """The limits of one string parameter."""

    least: int
    most: int
    pattern: str | None = None
    required: bool = True


SHAPES = {
    "InstanceId": Shape(10, 32, r"^i-[a-f0-9]+$"),
    "InstanceOSUser": Shape(
        1,
        32,
        r"(^[A-Za-z_][A-Za-z0-9\@\._-]{0,30}[A-Za-z0-9\$_-]?$)"
        r"|(^(?=.{2,32}$)[0-9]{1,32}[A-Za-z\@\._-][A-Za-z0-9\@\._-]*[A-Za-z0-9\$_-]?$)",
    ),
    "SSHPublicKey": Shape(80, 4096),
    "AvailabilityZone": Shape(6, 32, r"^(\w+-){2,3}\d+\w+$", required=False),
}


@dataclass(frozen=True)
class Push:
    """The parameters of SendSSHPublicKey once they have been found valid."""

    instance_id: str
    os_user: str
    public_key: str
    availability_zone: str | None


def parse_push(parameters: object) -> Push:
    """Check the parameters of a request; raises InvalidParameter."""
    if not isinstance(parameters, dict):
        raise InvalidParameter("the request's body is not a JSON object")
    values = {name: _check(name, shape, parameters.get(name)) for name, shape in SHAPES.items()}
    return Push(
        instance_id=values["InstanceId"] or "",
        os_user=values["InstanceOSUser"] or "",
        public_key=_public_key(values["SSHPublicKey"] or ""),
        availability_zone=values["AvailabilityZone"],
    )


def _check(name: str, shape: Shape, value: object) -> str | None:
    if value is None:
        if shape.required:
            raise InvalidParameter(f"{name} is missing")
        return None
    if not isinstance(value, str):
        raise InvalidParameter(f"{name} is not a string")
    if not shape.least <= len(value) <= shape.most:
        raise InvalidParameter(
            f"{name} has {len(value)} characters; {shape.least} to {shape.most} are accepted"
        )
    # The model's `$` means the very end, where Python's would let a newline follow.
    if shape.pattern is not None and not re.fullmatch(shape.pattern, value, re.ASCII):
        raise InvalidParameter(f"{name} does not match {shape.pattern}")
    return value


def _public_key(text: str) -> str:
    """Return the key as one line; `file://key.pub` of the AWS CLI brings a newline at its end."""
    line = text.strip()
    if not line.isprintable():
        raise InvalidParameter("SSHPublicKey is more than one line of text")
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidParameter(f"SSHPublicKey is no OpenSSH public key: {error}") from error
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS:
        return line
    if isinstance(key, ed25519.Ed25519PublicKey):
        return line
    raise InvalidParameter("SSHPublicKey is neither ED25519 nor RSA of 2048 to 4096 bits")
