"""Users: registers, changes, disables and deletes them, and finds the user of a token."""
