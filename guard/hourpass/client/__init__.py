from hourpass.client.auth import HourpassAuth

__all__ = ["HourpassAuth"]
