"""Password hashing, encryption of stored secrets, one-time codes and rate limits."""
