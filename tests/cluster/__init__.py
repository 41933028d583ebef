"""A real PostgreSQL cluster that fails over. `make test-cluster` runs this folder."""
