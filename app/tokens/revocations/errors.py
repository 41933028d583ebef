from app.errors import ApiError, UnavailableError


class CursorUnknownError(ApiError):
    """The cursor belongs to another feed or is too old. Clients start again without one."""

    status = 410
    error = "cursor_unknown"
    message = "Unknown or expired cursor. Start again without a cursor"


class CursorOfAnotherHistoryError(CursorUnknownError):
    """The database lacks a revocation that the feed has published, for example after a restore."""


class TooManyListenersError(UnavailableError):
    message = "Too many clients are waiting, try again shortly"
    limit = "feed_listeners"
