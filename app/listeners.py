"""Who listens to what the core announces."""

from app.audit.service import write
from app.events import Listener

LISTENERS: tuple[Listener, ...] = (write,)
