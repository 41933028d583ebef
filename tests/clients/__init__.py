"""Clients that generators make of the OpenAPI document. `make test-clients` runs this folder."""
