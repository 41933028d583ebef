"""Secrets at rest: Fernet under keys derived from SECRET_KEY, or plain without one."""

import base64
from contextlib import suppress
from functools import cached_property

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from app.errors import StartupError
from app.settings import Settings

ENCRYPTED_PREFIX = "gAAAA"  # how every Fernet token begins: its version, and the seconds until 2106
FINGERPRINT_BYTES = 8


class DecryptionError(StartupError):
    """A stored secret cannot be decrypted. The text names the setting to change."""


class Encryptor:
    """`content` names the kind of secret. Each kind has its own keys, so that a secret of one kind
    cannot be used as one of another. No plain secret may begin with ENCRYPTED_PREFIX.

    The first value of SECRET_KEY encrypts, and all of them decrypt. The columns of each kind say
    so (encrypted_columns.py), or SECRET_KEY could not be rotated."""

    def __init__(self, settings: Settings, content: str) -> None:
        self._content = content
        self._secret_key = settings.secret_key
        self._values = settings.secret_keys

    @property
    def is_enabled(self) -> bool:
        """Whether SECRET_KEY is set."""
        return self._secret_key is not None

    @cached_property
    def _fernets(self) -> tuple[Fernet, ...]:
        # Derived when first needed: most commands of the CLI need none.
        secrets = list(self._values)
        if self._secret_key is not None and len(secrets) > 1:
            # Before there could be several values, a text with commas was a single one.
            secrets.append(self._secret_key)
        info = f"hourpass {self._content}"
        return tuple(
            Fernet(base64.urlsafe_b64encode(_derive(secret, info, 32))) for secret in secrets
        )

    def encrypt(self, secret: str) -> str:
        return self._fernets[0].encrypt(secret.encode()).decode() if self._fernets else secret

    def decrypt(self, stored: str) -> str:
        """Raises DecryptionError."""
        if not stored.startswith(ENCRYPTED_PREFIX):
            return stored
        if self._fernets:
            with suppress(InvalidToken):
                return MultiFernet(self._fernets).decrypt(stored.encode()).decode()
        raise self._error()

    def needs_encryption(self, stored: str) -> bool:
        """Whether the secret was stored before SECRET_KEY was set."""
        return self.is_enabled and not stored.startswith(ENCRYPTED_PREFIX)

    def find_key(self, stored: str) -> int | None:
        """The index of the value of SECRET_KEY that encrypted the secret. None if it is plain.

        Raises DecryptionError.
        """
        if not stored.startswith(ENCRYPTED_PREFIX):
            return None
        for index, fernet in enumerate(self._fernets):
            try:
                fernet.decrypt(stored.encode())
            except InvalidToken:
                continue
            return index
        raise self._error()

    def encrypt_again(self, stored: str) -> str | None:
        """The secret, encrypted with the first value. None if it already is.

        Raises DecryptionError.
        """
        return None if self.find_key(stored) == 0 else self.encrypt(self.decrypt(stored))

    def _error(self) -> DecryptionError:
        if not self._fernets:
            return DecryptionError(f"The {self._content} are encrypted. Set SECRET_KEY.")
        return DecryptionError(
            f"The {self._content} were encrypted under another SECRET_KEY. Set that one, or add it "
            "after a comma."
        )


def fingerprints(settings: Settings) -> tuple[str, ...]:
    """A name for each value of SECRET_KEY that does not reveal it."""
    return tuple(
        _derive(value, "hourpass fingerprint", FINGERPRINT_BYTES).hex()
        for value in settings.secret_keys
    )


def _derive(secret: SecretStr, info: str, length: int) -> bytes:
    derived = HKDF(SHA256(), length, salt=None, info=info.encode())
    return derived.derive(secret.get_secret_value().encode())
