"""Secrets at rest: Fernet under a key derived from SECRET_KEY, or plain without one."""

import base64
from functools import cached_property

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.errors import StartupError
from app.settings import Settings

ENCRYPTED_PREFIX = "gAAAA"  # how every Fernet token begins: its version, and the seconds until 2106


class DecryptionError(StartupError):
    """A stored secret cannot be decrypted. The text names the setting to change."""


class Encryptor:
    """`content` names the kind of secret. Each kind has its own key, so that a secret of one kind
    cannot be used as one of another. No plain secret may begin with ENCRYPTED_PREFIX."""

    def __init__(self, settings: Settings, content: str) -> None:
        self._content = content
        self._secret_key = settings.secret_key

    @property
    def is_enabled(self) -> bool:
        """Whether SECRET_KEY is set."""
        return self._secret_key is not None

    @cached_property
    def _fernet(self) -> Fernet | None:
        # Derived when first needed: most commands of the CLI never do.
        if self._secret_key is None:
            return None
        secret = self._secret_key.get_secret_value().encode()
        derived = HKDF(SHA256(), 32, salt=None, info=f"hourpass {self._content}".encode())
        return Fernet(base64.urlsafe_b64encode(derived.derive(secret)))

    def encrypt(self, secret: str) -> str:
        return self._fernet.encrypt(secret.encode()).decode() if self._fernet else secret

    def decrypt(self, stored: str) -> str:
        """Raises DecryptionError."""
        if not stored.startswith(ENCRYPTED_PREFIX):
            return stored
        if self._fernet is None:
            raise DecryptionError(f"The {self._content} are encrypted. Set SECRET_KEY.")
        try:
            return self._fernet.decrypt(stored.encode()).decode()
        except InvalidToken:
            raise DecryptionError(
                f"The {self._content} were encrypted under another SECRET_KEY. Set that one."
            ) from None

    def needs_encryption(self, stored: str) -> bool:
        """Whether the secret was stored before SECRET_KEY was set."""
        return self.is_enabled and not stored.startswith(ENCRYPTED_PREFIX)
