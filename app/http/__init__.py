"""What every HTTP request passes through. Knows no capability."""
