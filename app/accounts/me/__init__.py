"""The user's own account. Sensitive changes require the password again."""
