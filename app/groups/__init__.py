"""Groups: scopes that several users share."""
