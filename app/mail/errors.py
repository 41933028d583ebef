from app.errors import ConflictError, ForbiddenError


class MailUnavailableError(ForbiddenError):
    """SMTP_URL is not set. The same for every address."""

    error = "mail_unavailable"
    message = "This service sends no mail. Ask an administrator"


class NothingToVerifyError(ConflictError):
    error = "nothing_to_verify"
    message = "There is no e-mail address, or it is verified already"
