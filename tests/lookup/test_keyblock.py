"""Reading key blocks and SSH public keys: strict, and one broken block costs no other."""

import base64
import hashlib
import struct
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from eic_agent.lookup.keyblock import (
    KEY_TYPES,
    KeyBlock,
    MalformedBlock,
    MalformedKey,
    has_fingerprint,
    key_blob,
    parse_blocks,
    parse_public_key,
    sha256_fingerprint,
)

KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDd1bW15IGtleSBvZiB0aGlydHktdHdvIGJ5dGVzIQ comment here"
HEADERS = (
    b"#Timestamp=1738233660",
    b"#Instance=i-0123456789abcdef0",
    b"#Caller=arn:aws:sts::123456789012:assumed-role/Admin/alice",
    b"#Request=1234abcd-12ab-34cd-56ef-1234567890ab",
)
SIGNATURE = base64.b64encode(bytes(range(256)))


def block(*lines: bytes, end: bytes = b"\n") -> bytes:
    return b"".join(line + b"\n" for line in lines) + end


GOOD = block(*HEADERS, KEY, SIGNATURE)


def parse(document: bytes) -> list[KeyBlock | MalformedBlock]:
    return list(parse_blocks(document))


def parse_one(document: bytes) -> KeyBlock:
    (parsed,) = parse(document)
    assert isinstance(parsed, KeyBlock), parsed
    return parsed


def problem(document: bytes) -> str:
    (parsed,) = parse(document)
    assert isinstance(parsed, MalformedBlock), parsed
    return parsed.problem


def test_a_block_is_read_and_what_is_signed_is_kept_byte_for_byte() -> None:
    parsed = parse_one(GOOD)
    assert parsed.expires == 1738233660
    assert parsed.instance == "i-0123456789abcdef0"
    assert parsed.caller == "arn:aws:sts::123456789012:assumed-role/Admin/alice"
    assert parsed.request == "1234abcd-12ab-34cd-56ef-1234567890ab"
    assert parsed.key_line == KEY
    assert parsed.signed == block(*HEADERS, KEY, end=b"")
    assert parsed.signature == bytes(range(256))


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n\n"])
def test_a_block_ends_with_blank_lines_or_the_document(end: bytes) -> None:
    assert parse_one(block(*HEADERS, KEY, SIGNATURE, end=end)) == parse_one(GOOD)
    assert parse_one(GOOD.rstrip(b"\n")) == parse_one(GOOD)


def test_a_signature_may_be_wrapped() -> None:
    lines = [SIGNATURE[at : at + 76] for at in range(0, len(SIGNATURE), 76)]
    assert parse_one(block(*HEADERS, KEY, *lines)) == parse_one(GOOD)


def test_caller_and_request_may_be_missing_and_other_headers_are_signed_in_any_order() -> None:
    headers = (b"#Other=x=y", b"#Instance=i-1", b"#Timestamp=7", b"#Empty=")
    parsed = parse_one(block(*headers, KEY, SIGNATURE))
    assert (parsed.caller, parsed.request, parsed.expires) == (None, None, 7)
    assert parsed.signed == block(*headers, KEY, end=b"")


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (GOOD.replace(b"\n", b"\r\n"), "unprintable"),
        (block(*HEADERS, KEY + b"\r", SIGNATURE), "carriage return"),
        (block(*HEADERS, KEY, SIGNATURE + b"\r"), "not base64"),
        (block(*HEADERS, KEY, SIGNATURE + b" "), "not base64"),
        (block(*HEADERS, KEY, b"QUFB===="), "not base64"),
        (block(*HEADERS, KEY, b"QUFBQQ==", b"QUFB"), "not base64"),
        (block(*HEADERS, KEY, b"QUFBQ"), "not base64"),
        (block(*HEADERS, KEY), "no signature"),
        (block(*HEADERS), "no key line"),
        (block(*HEADERS[1:], KEY, SIGNATURE), "no Timestamp"),
        (block(HEADERS[0], KEY, SIGNATURE), "no Instance"),
        (block(KEY, SIGNATURE), "no Timestamp"),
        (block(*HEADERS, HEADERS[0], KEY, SIGNATURE), "Timestamp stands twice"),
        (block(*HEADERS, HEADERS[2], KEY, SIGNATURE), "Caller stands twice"),
        (block(b"#Timestamp=soon", HEADERS[1], KEY, SIGNATURE), "whole number"),
        (block(b"#Timestamp=-1", HEADERS[1], KEY, SIGNATURE), "whole number"),
        (block(b"#Timestamp=1e9", HEADERS[1], KEY, SIGNATURE), "whole number"),
        (block(b"#Timestamp= 1", HEADERS[1], KEY, SIGNATURE), "whole number"),
        (block("#Timestamp=\u0661".encode(), HEADERS[1], KEY, SIGNATURE), "whole number"),
        (block(b"#Timestamp=" + b"9" * 5000, HEADERS[1], KEY, SIGNATURE), "whole number"),
        (block(b"# Timestamp=1", *HEADERS, KEY, SIGNATURE), "#Name=value"),
        (block(b"#no value", *HEADERS, KEY, SIGNATURE), "#Name=value"),
        (block(b"#", *HEADERS, KEY, SIGNATURE), "#Name=value"),
        (block(b"#X=\xff", *HEADERS, KEY, SIGNATURE), "not utf-8"),
        (block(b"#X=\x1b[31m", *HEADERS, KEY, SIGNATURE), "unprintable"),
        (block("#Caller=a\u202eb".encode(), *HEADERS[:2], KEY, SIGNATURE), "unprintable"),
        (b" \n", "no Timestamp"),
    ],
)
def test_every_deviation_is_malformed_and_says_why(document: bytes, why: str) -> None:
    assert why in problem(document)


def test_a_block_that_is_not_ended_is_malformed_and_takes_nothing_of_the_next() -> None:
    unended = block(*HEADERS, KEY, SIGNATURE, end=b"")
    first, second = parse(unended + GOOD)
    assert first == MalformedBlock("not ended by a blank line")
    assert second == parse_one(GOOD)


@pytest.mark.parametrize("line", [b"#Extra=1", b"A" * 64])
def test_a_block_of_very_many_lines_is_malformed_and_takes_nothing_of_the_next(line: bytes) -> None:
    """Nor does it take memory by the line, of which a forged document can hold half a million."""
    few, many = block(*HEADERS, KEY, *[line] * 90), block(*HEADERS, KEY, *[line] * 500)
    if line.startswith(b"#"):
        few, many = (
            block(*[line] * 90, *HEADERS, KEY, SIGNATURE),
            block(*[line] * 500, *HEADERS, KEY),
        )
    parse_one(few)
    assert parse(many + GOOD) == [MalformedBlock("more than 100 lines"), parse_one(GOOD)]


def test_the_first_header_after_very_many_lines_begins_a_block() -> None:
    unended = block(*HEADERS, KEY, *[b"A" * 64] * 500, end=b"")
    assert parse(unended + GOOD) == [MalformedBlock("not ended by a blank line"), parse_one(GOOD)]


def test_nothing_is_no_block() -> None:
    assert parse(b"") == parse(b"\n\n\n") == []


@given(st.binary())
def test_any_document_is_read_without_an_error(document: bytes) -> None:
    for parsed in parse_blocks(document):
        if isinstance(parsed, KeyBlock):
            assert parsed.signed in document


@given(st.binary(), st.binary())
def test_a_good_block_among_any_others_is_found(before: bytes, after: bytes) -> None:
    assert parse_one(GOOD) in parse(before + b"\n\n" + GOOD + after)


@given(st.integers(0, len(GOOD) - 2), st.integers(0, 255))
def test_a_changed_byte_changes_what_is_signed_or_the_signature_or_breaks_the_block(
    at: int, value: int
) -> None:
    original = parse_one(GOOD)
    changed = GOOD[:at] + bytes([value]) + GOOD[at + 1 :]
    for parsed in parse(changed):
        if isinstance(parsed, KeyBlock) and changed != GOOD:
            assert (parsed.signed, parsed.signature) != (original.signed, original.signature)


# SSH public keys


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def mpint(value: int) -> bytes:
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def line(algorithm: str, *fields: bytes) -> bytes:
    blob = string(algorithm.encode()) + b"".join(fields)
    return algorithm.encode() + b" " + base64.b64encode(blob) + b" a comment"


MODULUS = (1 << 2047) | 1
# Always the same keys, since they name test cases.
ED25519_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"k" * 32)
ED25519 = string(ED25519_KEY.public_key().public_bytes_raw())
APPLICATION = string(b"ssh:")


def point(curve: ec.EllipticCurve) -> bytes:
    key = ec.derive_private_key(12345, curve).public_key()
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


P256 = point(ec.SECP256R1())
KEYS = {
    "ssh-ed25519": (ED25519,),
    "ssh-rsa": (mpint(65537), mpint(MODULUS)),
    "ecdsa-sha2-nistp256": (string(b"nistp256"), string(P256)),
    "ecdsa-sha2-nistp384": (string(b"nistp384"), string(point(ec.SECP384R1()))),
    "ecdsa-sha2-nistp521": (string(b"nistp521"), string(point(ec.SECP521R1()))),
    "sk-ssh-ed25519@openssh.com": (ED25519, APPLICATION),
    "sk-ecdsa-sha2-nistp256@openssh.com": (string(b"nistp256"), string(P256), APPLICATION),
}


def test_keys_of_every_known_type_are_tested() -> None:
    assert set(KEYS) == set(KEY_TYPES)


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_key_is_read_and_printed_without_its_comment(algorithm: str) -> None:
    text = line(algorithm, *KEYS[algorithm])
    key = parse_public_key(text)
    assert key.authorized_key == text.decode().removesuffix(" a comment")
    assert key.rsa_bits == (2048 if algorithm == "ssh-rsa" else None)
    assert parse_public_key(key.authorized_key.encode()) == key


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_key_with_bytes_behind_it_or_missing_is_refused(algorithm: str) -> None:
    fields = b"".join(KEYS[algorithm])
    for broken in (fields + b"\0", fields[:-1], b""):
        with pytest.raises(MalformedKey):
            parse_public_key(line(algorithm, broken))


def test_what_cryptography_writes_is_read() -> None:
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    for public in (rsa_key, ed25519.Ed25519PrivateKey.generate().public_key()):
        text = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        assert parse_public_key(text).authorized_key.encode() == text


OFF_CURVE = P256[:-1] + bytes([P256[-1] ^ 1])
COMPRESSED = bytes([2 + (P256[-1] & 1)]) + P256[1:33]


@pytest.mark.parametrize(
    ("key_line", "why"),
    [
        (b"", "no algorithm and key"),
        (b"ssh-ed25519", "no algorithm and key"),
        (b"ssh-ed25519 ", "cut short"),
        (b"ssh-ed25519  AAAA", "cut short"),
        (b"ssh-ed25519\tAAAA", "no algorithm and key"),
        (b"ssh-ed25519 A*AA", "base64"),
        ("ssh-ed25519é AAAA".encode(), "not an algorithm"),
        (b"no-pty ssh-ed25519 AAAA", "base64|unknown"),
        (line("ssh-dss", ED25519), "unknown key type"),
        (line("ssh-ed25519-cert-v01@openssh.com", ED25519), "unknown key type"),
        (line("sk-ssh-ed25519", ED25519, APPLICATION), "unknown key type"),
        (b"ssh-rsa " + line("ssh-ed25519", ED25519).split(b" ")[1], "not of the type"),
        (line("ssh-ed25519", string(b"x" * 31)), "32 bytes"),
        (line("ssh-rsa", mpint(65537), string(b"\0\0" + b"\xff" * 256)), "shortest"),
        (line("ssh-rsa", mpint(65537), string(b"\xff" * 256)), "shortest"),
        (line("ssh-rsa", mpint(65537), string(b"\0")), "shortest"),
        (line("ssh-rsa", string(b""), mpint(MODULUS)), "shortest"),
        (line("ssh-rsa", mpint(1), mpint(MODULUS)), "no RSA key"),
        (line("ssh-rsa", mpint(4), mpint(MODULUS)), "no RSA key"),
        (line("ssh-rsa", mpint(65537), mpint(MODULUS - 1)), "no RSA key"),
        (line("ecdsa-sha2-nistp256", string(b"nistp384"), string(P256)), "curve is not"),
        (line("ecdsa-sha2-nistp256", string(b"nistp256"), string(OFF_CURVE)), "no uncompressed"),
        (line("ecdsa-sha2-nistp256", string(b"nistp256"), string(COMPRESSED)), "no uncompressed"),
        (line("ecdsa-sha2-nistp256", string(b"nistp256"), string(b"\0")), "no uncompressed"),
        (b"ssh-ed25519 " + base64.b64encode(b"\xff\xff\xff\xff"), "cut short"),
    ],
)
def test_a_key_in_any_other_form_is_refused_and_says_why(key_line: bytes, why: str) -> None:
    with pytest.raises(MalformedKey, match=why):
        parse_public_key(key_line)


@given(st.binary() | st.binary().map(lambda b: b"ssh-rsa " + base64.b64encode(b)))
def test_any_key_line_is_a_key_or_malformed(key_line: bytes) -> None:
    try:
        key = parse_public_key(key_line)
    except MalformedKey:
        return
    assert parse_public_key(key.authorized_key.encode()) == key


@given(st.sampled_from(sorted(KEYS)), st.data())
def test_a_changed_blob_is_never_printed_as_another_key(
    algorithm: str, data: st.DataObject
) -> None:
    blob = key_blob(line(algorithm, *KEYS[algorithm]))
    at = data.draw(st.integers(0, len(blob) - 1))
    changed = blob[:at] + bytes([data.draw(st.integers(0, 255))]) + blob[at + 1 :]
    try:
        key = parse_public_key(algorithm.encode() + b" " + base64.b64encode(changed))
    except MalformedKey:
        return
    assert key.blob == changed


def sha256(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def md5(blob: bytes) -> str:
    return "MD5:" + hashlib.md5(blob, usedforsecurity=False).hexdigest()


def with_colons(fingerprint: str) -> str:
    digits = fingerprint.removeprefix("MD5:")
    return "MD5:" + ":".join(digits[at : at + 2] for at in range(0, 32, 2))


@pytest.mark.parametrize("form", [sha256, md5, lambda blob: with_colons(md5(blob))])
def test_a_key_is_found_by_either_form_of_fingerprint(form: Callable[[bytes], str]) -> None:
    blob = key_blob(line("ssh-ed25519", ED25519))
    assert has_fingerprint(blob, form(blob))
    assert not has_fingerprint(blob + b"x", form(blob))


def test_a_fingerprint_of_another_kind_names_no_key() -> None:
    assert not has_fingerprint(b"", "")
    assert not has_fingerprint(b"", "SHA1:2jmj7l5rSw0yVb/vlWAYkK/YBwk")
    assert sha256_fingerprint(b"") == "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
