from app.errors import NotFoundError


class SessionNotFoundError(NotFoundError):
    error = "session_not_found"
    message = "Session not found"
