"""A periodic job that deletes data that is no longer needed."""
