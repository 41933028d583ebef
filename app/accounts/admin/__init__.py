"""What administrators do with accounts over HTTP."""
