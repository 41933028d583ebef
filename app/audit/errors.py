from app.errors import ConflictError, ForbiddenError


class UserNotRemovedError(ConflictError):
    error = "user_not_removed"
    message = "The user still exists. Delete the user first"


class ErasureUnavailableError(ForbiddenError):
    """The operator has not given the service's role the right, so that an attacker in the service
    cannot erase traces (docs/security.md)."""

    error = "erasure_unavailable"
    message = (
        "The database role of the service may not erase anything in the audit log. "
        "Run hourpass users erase with the role that owns the tables"
    )
