"""Registration: open, by invitation, or closed."""
