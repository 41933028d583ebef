"""How `hourpass serve` starts, listens, logs, restarts and stops."""
