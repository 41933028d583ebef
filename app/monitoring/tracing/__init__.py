"""Traces for OpenTelemetry: spans of requests and database statements. Off by default.

FastAPI has telemetry of its own, which main.py switches off: its spans contain paths and queries,
and paths of this service contain tokens.
"""
