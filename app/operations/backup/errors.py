from app.errors import StartupError


class BackupError(StartupError):
    """The backup or restore cannot be done. The message tells the operator why, and what to do."""
