"""Repairs a database that has lost its last writes, after a failover or a restore."""
