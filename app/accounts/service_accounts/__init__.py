"""Service accounts: users that are programs."""
