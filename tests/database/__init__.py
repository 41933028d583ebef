"""Migrations, the databases that the service uses, and copies of them."""
