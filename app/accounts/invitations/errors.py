from app.errors import NotFoundError


class InvitationNotFoundError(NotFoundError):
    """Or it was used, taken back, or is too old."""

    error = "invitation_not_found"
    message = "Invitation not found"
