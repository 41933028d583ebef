"""Users, service accounts and groups as a file, which small teams keep in git."""
