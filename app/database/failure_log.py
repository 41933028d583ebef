"""Logs failures of repeated work only once. An outage would otherwise fill the log."""

import logging
from time import time

from app.database import outages
from app.errors import UnavailableError


class FailureLog:
    """Logs a line at the first failure and one when the work succeeds again. Counts failures."""

    def __init__(self, logger: logging.Logger, message: str) -> None:
        self._logger = logger
        self._message = message
        self._is_failing = False
        self.number = 0  # of failures
        self.succeeded_at: float | None = None  # a timestamp

    def failed(self, error: Exception) -> None:
        self.number += 1
        if self._is_failing:
            return
        self._is_failing = True
        if isinstance(error, UnavailableError):  # of Database.session()
            cause = outages.describe(error.__cause__) if error.__cause__ else error.message
        elif outages.is_outage(error):
            cause = outages.describe(error)
        else:  # only then does a traceback help
            extra = {"cause": type(error).__name__}
            self._logger.error(self._message, extra=extra, exc_info=error)
            return
        self._logger.warning(self._message, extra={"cause": cause})

    def succeeded(self, *, has_worked: bool = True) -> None:
        """`has_worked` is False if there was nothing to do because another process does it."""
        if has_worked:
            self.succeeded_at = time()
        if self._is_failing:
            self._is_failing = False
            self._logger.info("Works again: %s", self._message)
