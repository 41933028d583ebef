"""The checks of `hourpass doctor`: one module per topic, and their list in checks.py."""
