"""Users of other systems, imported from their files."""
