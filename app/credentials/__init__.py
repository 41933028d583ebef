"""What a user logs in with besides the password."""
