"""Invitations: an administrator lets somebody register."""
