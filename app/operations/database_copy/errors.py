from app.errors import StartupError


class CopyError(StartupError):
    """Nothing was copied. The message says why, and has no value of a row."""
