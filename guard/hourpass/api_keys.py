"""The format of API keys: `hp_`, an id of 8 characters, a secret of 32, and a checksum of 6.

All are base62, so that a double click selects a key and secret scanners find leaked ones:
`hp_[0-9A-Za-z]{46}`. The checksum is the CRC32 of id and secret. It finds typing errors without a
lookup; it is no protection, because anybody can compute it.
"""

import re
import secrets
from binascii import crc32
from string import ascii_lowercase, ascii_uppercase, digits

PREFIX = "hp_"
ID_LENGTH = 8
SECRET_LENGTH = 32  # 190 bits
KEY_LENGTH = 49
PATTERN = r"hp_[0-9A-Za-z]{46}"

_DIGITS = digits + ascii_uppercase + ascii_lowercase
_KEY = re.compile(PATTERN)
_CHECKSUM_LENGTH = 6


def is_api_key(credential: str) -> bool:
    """Whether a bearer credential is meant as an API key: a JWT never begins like this."""
    return credential.startswith(PREFIX)


def is_well_formed(key: str) -> bool:
    return _KEY.fullmatch(key) is not None and key[-_CHECKSUM_LENGTH:] == _checksum(_body_of(key))


def id_of(key: str) -> str:
    """The id of a well-formed key. It is no secret."""
    return key[len(PREFIX) :][:ID_LENGTH]


def generate_key() -> str:
    body = "".join(secrets.choice(_DIGITS) for _ in range(ID_LENGTH + SECRET_LENGTH))
    return PREFIX + body + _checksum(body)


def _body_of(key: str) -> str:
    return key[len(PREFIX) : -_CHECKSUM_LENGTH]


def _checksum(body: str) -> str:
    number = crc32(body.encode())
    characters = []
    for _ in range(_CHECKSUM_LENGTH):
        number, remainder = divmod(number, len(_DIGITS))
        characters.append(_DIGITS[remainder])
    return "".join(reversed(characters))
