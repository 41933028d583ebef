"""Metrics for Prometheus: reads the numbers that other folders count, and serves them."""
