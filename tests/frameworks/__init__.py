"""Recipes for serving frameworks. `make test-frameworks` runs this folder."""
