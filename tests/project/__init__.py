"""The project itself: architecture, documentation, packaging."""
