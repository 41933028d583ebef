"""Rate limits. Does not know users: it hashes usernames and IP addresses into keys."""
