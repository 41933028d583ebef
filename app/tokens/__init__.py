"""Access tokens and their keys and revocations. Does not know users: a subject is a string."""
