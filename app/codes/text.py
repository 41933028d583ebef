"""What a code looks like: 80 random bits in base32, written in groups of four.

That many nobody guesses, so they are kept as SHA-256: a slow hash would protect them no better.
"""

import base64
import hashlib
import re
import secrets
import unicodedata

BYTES = 10
PATTERN = re.compile("[A-Z2-7]{16}")


def new() -> str:
    return base64.b32encode(secrets.token_bytes(BYTES)).decode()


def shown(code: str) -> str:
    """As people read it: ABCD-EFGH-IJKL-MNOP."""
    return "-".join(re.findall("....", code))


def read(typed: str) -> str:
    """People type codes as they see them: in groups, in any case, in the digits of full width."""
    return re.sub(r"[\s-]+", "", unicodedata.normalize("NFKC", typed)).upper()


def digest(code: str) -> bytes:
    return hashlib.sha256(code.encode()).digest()
