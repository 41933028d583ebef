"""Mail: operations add it to an outbox table, and any worker sends it."""
