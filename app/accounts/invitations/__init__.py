"""Invitations, with which administrators let people register."""
