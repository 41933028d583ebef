"""`hourpass backup` and `hourpass restore`."""
