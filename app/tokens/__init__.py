"""What a token is: signing keys, issuing, reading. Knows no user: a subject is just a string."""
