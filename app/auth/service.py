"""Logging in. Knows users and tokens; neither knows it."""

from datetime import datetime

from app.auth.errors import InvalidCredentialsError, InvalidGrantError
from app.auth.schemas import Credentials, IssuedToken, PasswordGrant
from app.passwords import Passwords
from app.tokens.service import Tokens
from app.users.models import User
from app.users.service import Users


class Login:
    def __init__(self, users: Users, passwords: Passwords, tokens: Tokens) -> None:
        self._users = users
        self._passwords = passwords
        self._tokens = tokens

    async def trade(self, credentials: Credentials, now: datetime) -> tuple[User, IssuedToken]:
        """A token for an existing, enabled user's password.

        Raises InvalidCredentialsError, or InvalidGrantError if they came by form; both mean an
        unknown user, a wrong password or a disabled user. Raises HashingOverloadedError.
        """
        password = credentials.password.get_secret_value()
        user = await self._users.find(credentials.username)
        # Checked for nobody and for the disabled as well: the time taken tells nothing.
        matches = await self._passwords.matches(password, user.password_hash if user else None)
        if not (user and matches and user.is_enabled):
            by_form = isinstance(credentials, PasswordGrant)
            raise InvalidGrantError if by_form else InvalidCredentialsError
        if self._passwords.needs_rehash(user.password_hash):
            await self._users.upgrade_hash(user, password)
        token = self._tokens.issue(str(user.id), user.token_epoch, now)
        lifetime = int(self._tokens.lifetime.total_seconds())
        return user, IssuedToken(token=token, access_token=token, expires_in=lifetime)
