"""Parameters that all measured servers share. Imports nothing, since peers lack our libraries."""

ARGON2_MEMORY_KIB = 19_456
ARGON2_PASSES = 2

# Everybody's password; `arthur` is whoever the peers need to know.
PASSWORD = "once and future king"
EMAIL = "arthur@camelot.example"
