"""Rate limits, their clocks, and the rotation of `SECRET_KEY`."""
