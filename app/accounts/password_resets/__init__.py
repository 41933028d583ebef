"""Forgotten passwords, and those that an administrator voids."""
