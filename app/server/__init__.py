"""The HTTP server: uvicorn, as `hourpass serve` runs it."""
