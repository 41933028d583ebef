"""The package's own requests to the Hourpass service, made with the standard library alone.

It reads no proxy from the environment, logs nothing, and a deadline bounds each whole exchange.
"""
