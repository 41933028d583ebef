from app.credentials.api_keys.limits import MAX_PER_USER
from app.errors import ConflictError, NotFoundError


class ApiKeyNotFoundError(NotFoundError):
    """The same for the key of another user, so that it does not reveal which ids exist."""

    error = "api_key_not_found"
    message = "API key not found"


class ApiKeyNotActiveError(ConflictError):
    error = "api_key_not_active"
    message = "The API key is revoked or expired. Create a new one"


class ApiKeySuspendedError(ConflictError):
    error = "api_key_suspended"
    message = "The API key is suspended. Resume it first"


class ApiKeyRotatedError(ConflictError):
    """A second successor would be a key that nobody asked for: the client sent its request twice,
    or two people rotate the key."""

    error = "api_key_rotated"
    message = "The API key was already rotated. Rotate its successor, which replaced_by names"


class TooManyApiKeysError(ConflictError):
    error = "too_many_api_keys"
    message = f"The user has {MAX_PER_USER} API keys. Revoke one that is not used"
