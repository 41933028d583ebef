"""The audit log: a subscriber writes an entry for each event."""
