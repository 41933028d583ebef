"""Settings, and what they change."""
