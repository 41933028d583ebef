"""One-time codes: to reset a password, verify an e-mail address, or register by invitation."""
