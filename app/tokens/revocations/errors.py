from app.errors import ApiError, UnavailableError


class CursorUnknownError(ApiError):
    """The cursor is not of this feed, or too old. Keep what is known, read from the beginning."""

    status = 410
    error = "cursor_unknown"
    message = "This cursor is not of this feed, start over without one"


class CursorOfAnotherHistoryError(CursorUnknownError):
    """This feed once had, or has elsewhere, a revocation that this database lacks."""


class TooManyListenersError(UnavailableError):
    message = "Too many listeners are waiting, try again shortly"
