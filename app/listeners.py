"""Who listens to what the core announces."""

from app.events import Listener

LISTENERS: tuple[Listener, ...] = ()
