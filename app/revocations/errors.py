from app.errors import Refusal, UnavailableError


class CursorUnknownError(Refusal):
    """The cursor is another feed's. Forget what was heard and begin again without a cursor."""

    status = 410
    error = "cursor_unknown"
    message = "This cursor is not of this feed, start over without one"


class TooManyListenersError(UnavailableError):
    message = "Too many listeners are waiting, try again shortly"
