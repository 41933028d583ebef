"""Single-use codes: for a new password, to verify an address, to register by invitation."""
