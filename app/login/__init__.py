"""Trade a password for a token; ask whether one still holds."""
