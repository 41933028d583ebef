"""HTTP code that all capabilities share. Does not know the capabilities."""
