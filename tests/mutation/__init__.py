"""A mutation run: changes the code in one small way at a time, and expects a test to fail.

`make mutation ARGS="app/tokens app/users"` does it for these folders and modules. Each survivor
needs a test, or an entry with a reason in equivalent.toml.
"""
