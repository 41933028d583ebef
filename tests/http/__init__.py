"""HTTP: connections, limits, errors."""
