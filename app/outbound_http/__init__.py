"""Requests to other servers: the only module through which the service makes HTTP requests."""
