"""Limits of API keys. Separate from schemas.py, so that `--help` does not import the rest."""

DEFAULT_DAYS = 90
MAX_DAYS = 366
MAX_PER_USER = 50  # active or suspended keys, without rotated ones
MAX_OVERLAP_SECONDS = 7 * 24 * 60 * 60
MAX_SCOPES = 100
MAX_SCOPES_LENGTH = 1_000  # so that they fit into a token
