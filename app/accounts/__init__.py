"""Account operations over HTTP: registration, own account, password resets, administration."""
