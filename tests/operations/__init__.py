"""What operators do and rely on."""
