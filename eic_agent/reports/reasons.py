"""Every reason: what it means, how it comes about, what to do.

The journal's catalogue, eic-agent(8) and docs/troubleshooting.md have the same; a test holds them.
"""

from dataclasses import dataclass

from eic_agent.errors import Reason


@dataclass(frozen=True, slots=True)
class Explained:
    """A reason for people, each a sentence or two."""

    meaning: str
    cause: str
    remedy: str


_IN_ITS_PLACE = (
    "See who answers at 169.254.169.254 (routes, proxies, containers); "
    "if that is metadata itself, tell AWS."
)

REASONS = {
    Reason.UNADDRESSABLE_USER: Explained(
        "No key can be pushed for a user of this name.",
        "The API takes only some names (InstanceOSUser).",
        "Log in as another user, or by another way.",
    ),
    Reason.USER_NOT_ALLOWED: Explained(
        "The policy of this machine allows this user no pushed key.",
        "policy.allow_users, deny_users, allow_groups or deny_groups rule the user out.",
        "Run `eic-agent config check --user USER`, and change [policy].",
    ),
    Reason.NOT_THIS_INSTANCE: Explained(
        "Metadata names another instance than the hardware does.",
        "Somebody answers in the place of the metadata service.",
        _IN_ITS_PLACE,
    ),
    Reason.NOT_EC2: Explained(
        "The hardware does not say that this is an EC2 instance.",
        "The machine is none, or identity.sysfs_root hides its DMI data.",
        "Use EC2 Instance Connect on EC2 only; look at /sys/class/dmi/id/board_asset_tag.",
    ),
    Reason.UNKNOWN_DOMAIN: Explained(
        "The region or its domain is not one that is known.",
        "The region is newer than this version, or metadata is not genuine.",
        "Upgrade, or name the region in identity.regions.",
    ),
    Reason.UNTRUSTED_CHAIN: Explained(
        "The signer's certificates lead to no trust anchor now.",
        "This machine's clock is wrong, trust.anchors lacks the root, or metadata is not genuine.",
        "Compare the clock (`timedatectl`), then trust.anchors.",
    ),
    Reason.WRONG_SIGNER_NAME: Explained(
        "The signer's certificate is another service's or region's.",
        "Somebody answers in the place of the metadata service.",
        _IN_ITS_PLACE,
    ),
    Reason.REVOKED: Explained(
        "A certificate of the signer's is revoked.",
        "AWS withdrew it, or somebody replays it.",
        "Wait for the new signer; if it stays so, see who answers at 169.254.169.254.",
    ),
    Reason.NO_VALID_STAPLE: Explained(
        "Metadata gives no valid proof that a certificate is not revoked.",
        "This machine's clock is wrong, or the staples that metadata gives are old.",
        "Compare the clock (`timedatectl`); if it is right, wait some minutes.",
    ),
    Reason.MALFORMED_BLOCK: Explained(
        "What was pushed cannot be read.",
        "A new form that this version does not know, or metadata that is not genuine.",
        "Upgrade; push again.",
    ),
    Reason.OTHER_KEY: Explained(
        "Another key than the one that ssh offers was pushed.",
        "ssh offers every key that it has; only the pushed one counts.",
        "Offer the pushed key: ssh -i KEY -o IdentitiesOnly=yes.",
    ),
    Reason.OTHER_INSTANCE: Explained(
        "The key was pushed for another instance.",
        "Somebody serves the document of another instance.",
        _IN_ITS_PLACE,
    ),
    Reason.EXPIRED: Explained(
        "The push is older than its 60 seconds.",
        "The login came too late, or this machine's clock is ahead.",
        "Push again and log in at once; compare the clock (`timedatectl`).",
    ),
    Reason.EXPIRES_TOO_LATE: Explained(
        "The push would hold longer than keys.max_lifetime_s allows.",
        "This machine's clock is behind by more than keys.clock_skew_s.",
        "Set the clock (`timedatectl`, chrony).",
    ),
    Reason.KEY_NOT_ALLOWED: Explained(
        "The key's type or size is not allowed here.",
        "keys.types or keys.min_rsa_bits rule it out.",
        "Push an ed25519 key, or change [keys].",
    ),
    Reason.BAD_SIGNATURE: Explained(
        "The signer has not signed this push.",
        "Somebody forged it, or changed it on the way.",
        _IN_ITS_PLACE,
    ),
    Reason.REPLAYED_BLOCK: Explained(
        "This very push was seen before, longer ago than it may live, or for another user.",
        "Somebody replays it, or a clock was set back.",
        "Compare the clock (`timedatectl`), then see who answers at 169.254.169.254.",
    ),
    Reason.CALLER_NOT_ALLOWED: Explained(
        "The policy of this machine does not let this IAM principal push for this user.",
        "The first of policy.rules that names the user does not name the principal.",
        "Run `eic-agent config check --user USER --caller ARN`, and change policy.rules.",
    ),
    Reason.METADATA_UNAVAILABLE: Explained(
        "Metadata, or the user database, gave no answer in time.",
        "Metadata is disabled for the instance (403), or a firewall of this host blocks it.",
        "Enable it (aws ec2 modify-instance-metadata-options), then look at nft list ruleset.",
    ),
    Reason.OVERLOADED: Explained(
        "More lookups came than can be answered at once.",
        "Many connect to sshd, or a user in agent.clients fills the socket.",
        "Limit connections (MaxStartups, a firewall), and see who is in agent.clients.",
    ),
    Reason.INVALID_CONFIG: Explained(
        "The configuration cannot be used, so no key is granted.",
        "A file has a mistake, or the agent's user may not read it.",
        "Run `eic-agent config check` and mend what it names.",
    ),
    Reason.NOT_RECORDED: Explained(
        "The journal took no entry, and log.required wants one.",
        "systemd-journald does not run, or somebody fills it.",
        "See with `systemctl status systemd-journald`.",
    ),
}
