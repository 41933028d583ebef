from enum import Enum

from app.errors import StartupError


class ImportFileError(StartupError):
    """The file cannot be read. Nothing has been imported."""


class Reason(Enum):
    """Why a user is left out."""

    RECORD = "the record cannot be read"
    USERNAME = "the username is not allowed"
    DUPLICATE = "the username occurs twice in the file"
    SERVICE = "it is a service account"
    EMAIL = "the e-mail address is not allowed"
    SCOPES = "the scopes are not allowed"
    HASH = "the password hash is of an unsupported kind"
    COST = "the password hash is too costly"
    PASSWORD = "the password cannot be decrypted or is not allowed"  # noqa: S105 - a sentence
    SECOND_FACTOR = "the second factor cannot be taken over"


class LeftOutError(Exception):
    """This user cannot be imported. `detail` contains no hash and no secret."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
