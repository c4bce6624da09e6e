"""The reasons that a refusal can have, and the errors that stop a decision."""

import enum


class Reason(str, enum.Enum):
    """Why no key, or not this key, was granted; the value is what the journal shows."""

    UNADDRESSABLE_USER = "unaddressable-user"
    USER_NOT_ALLOWED = "user-not-allowed"
    NOT_THIS_INSTANCE = "not-this-instance"
    NOT_EC2 = "not-ec2"
    UNKNOWN_DOMAIN = "unknown-domain"
    UNTRUSTED_CHAIN = "untrusted-chain"
    WRONG_SIGNER_NAME = "wrong-signer-name"
    REVOKED = "revoked"
    NO_VALID_STAPLE = "no-valid-staple"
    MALFORMED_BLOCK = "malformed-block"
    OTHER_KEY = "other-key"
    OTHER_INSTANCE = "other-instance"
    EXPIRED = "expired"
    EXPIRES_TOO_LATE = "expires-too-late"
    KEY_NOT_ALLOWED = "key-not-allowed"
    BAD_SIGNATURE = "bad-signature"
    REPLAYED_BLOCK = "replayed-block"
    CALLER_NOT_ALLOWED = "caller-not-allowed"
    METADATA_UNAVAILABLE = "metadata-unavailable"
    OVERLOADED = "overloaded"
    INVALID_CONFIG = "invalid-config"
    NOT_RECORDED = "not-recorded"


class EicAgentError(Exception):
    """Any error that this package raises on purpose."""


class MetadataUnavailable(EicAgentError):
    """The metadata service did not give what was asked for, or not in time."""


class MetadataUnreachable(MetadataUnavailable):
    """The service did not answer, or not in time, or answered that it is out of order (5xx)."""


class UsersUnavailable(EicAgentError):
    """The database of users and groups did not give what was asked for, or not in time."""


class UntrustedMaterial(EicAgentError):
    """The metadata service gave something that must not be believed.

    `about_time`: it is not valid now, so a clock that is wrong may be the cause.
    """

    def __init__(self, reason: Reason, detail: str, *, about_time: bool = False) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.about_time = about_time


class ConfigError(EicAgentError):
    """A configuration file says something that cannot be used; the text names file and key."""
