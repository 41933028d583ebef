"""Who did what to whom, when and from where. Listens to what the core announces."""
