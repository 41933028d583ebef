from app.errors import NotFoundError


class InvitationNotFoundError(NotFoundError):
    """Also for used, revoked and expired invitations."""

    error = "invitation_not_found"
    message = "Invitation not found"
