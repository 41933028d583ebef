from app.errors import ConflictError, ForbiddenError


class MailUnavailableError(ForbiddenError):
    """SMTP_URL is not set. Raised for every address, so that it reveals nothing about them."""

    error = "mail_unavailable"
    message = "This service does not send mail. Ask an administrator"


class NothingToVerifyError(ConflictError):
    error = "nothing_to_verify"
    message = "There is no e-mail address, or it is already verified"


class NotMailedError(ConflictError):
    error = "not_mailed"
    message = "Its code was not mailed"
