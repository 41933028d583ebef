from hourpass.guard.guard import Guard

__all__ = ["Guard"]
