"""The rotation of SECRET_KEY: which worker has which of its values, and encrypting again."""
