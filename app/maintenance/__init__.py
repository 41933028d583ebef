"""What the service does by itself: delete expired rows, repair a database that has lost some."""
