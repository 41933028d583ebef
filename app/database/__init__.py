"""The database: engine, sessions, migrations. Does not know the tables of the capabilities."""
