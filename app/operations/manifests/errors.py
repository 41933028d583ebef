from app.errors import StartupError


class ManifestError(StartupError):
    """The file is not valid, or cannot be applied. Nothing was changed. One line for each problem,
    with its place in the file."""


class ChangedMeanwhileError(ManifestError):
    def __init__(self) -> None:
        super().__init__(
            "Users or groups have changed since the difference was shown. Nothing was "
            "applied. Run the command again."
        )
