"""How `hourpass serve` runs uvicorn."""
