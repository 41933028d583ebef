"""What the service stores of an API key, and what its workers remember of it."""

import hashlib

FINGERPRINT_BYTES = 8
ANNOUNCEMENT_PREFIX = "key:"


def hash_key(key: str) -> bytes:
    """190 random bits need no slow hash."""
    return hashlib.sha256(key.encode()).digest()


def fingerprint(secret_hash: bytes) -> bytes:
    """Each worker keeps this of every key that works, so that a flood of forged keys causes no
    statements. It tells nothing about the key, and takes little memory."""
    return secret_hash[:FINGERPRINT_BYTES]


def announcement(secret_hash: bytes) -> str:
    """The value in the revocation feed that tells all workers of a new key. It revokes nothing,
    because no token has such a value."""
    return ANNOUNCEMENT_PREFIX + fingerprint(secret_hash).hex()
