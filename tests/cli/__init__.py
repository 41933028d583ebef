"""The `hourpass` command."""
