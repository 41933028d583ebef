"""The audit log, and what is deleted when it is no longer needed."""
