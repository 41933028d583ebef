"""The `hourpass` package in the APIs and clients of users."""
