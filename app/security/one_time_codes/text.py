"""What a code looks like: 120 random bits in base32, written in groups of four.

A secret of 112 bits or more may be kept as SHA-256 (ASVS 5.0, 6.5.2): nobody guesses it, and a slow
hash would protect it no better.
"""

import base64
import hashlib
import re
import secrets
import unicodedata

BYTES = 15  # the fewest above 112 bits that base32 writes without padding
# Codes had 16 characters (80 bits) before. Recovery codes of that kind last until they are used.
PATTERN = re.compile("[A-Z2-7]{24}|[A-Z2-7]{16}")


def generate_code() -> str:
    return base64.b32encode(secrets.token_bytes(BYTES)).decode()


def format_code(code: str) -> str:
    """As people read it: ABCD-EFGH-IJKL-MNOP-QRST-UVWX."""
    return "-".join(re.findall("....", code))


def parse_code(typed: str) -> str:
    """People type codes as they see them: in groups, in any case, in the digits of full width."""
    return re.sub(r"[\s-]+", "", unicodedata.normalize("NFKC", typed)).upper()


def hash_code(code: str) -> bytes:
    return hashlib.sha256(code.encode()).digest()
