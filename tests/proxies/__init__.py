"""Each proxy of examples/ between a real Hourpass and a model."""
