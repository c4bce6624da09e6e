"""RSA keys, each generated once in a process since that is slow."""

import functools

from cryptography.hazmat.primitives.asymmetric import rsa


@functools.cache
def rsa_key(purpose: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return the key of this purpose and size, the same one for the life of the process."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)
