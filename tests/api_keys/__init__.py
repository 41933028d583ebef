"""API keys: their life, their limits, and who may use them."""
