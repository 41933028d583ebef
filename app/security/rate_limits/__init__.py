"""Slows down whoever guesses. Knows no user: names and addresses are keys to it, and hashed."""
