"""The database: engine, sessions, migrations. Knows no table of a capability."""
