"""Password resets: by users who forgot theirs, or forced by an administrator."""
