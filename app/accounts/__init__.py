"""What people do with accounts: register, change them, reset passwords, administer."""
