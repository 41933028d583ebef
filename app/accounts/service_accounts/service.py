"""Creates and finds service accounts. Everything else about them is done as for other users."""

from collections.abc import Collection

from app.context import RequestContext
from app.database.engine import begin_write
from app.database.timelines import require_unused_ids
from app.events import Events
from app.settings import Settings
from app.tokens.jwt import SERVICE
from app.tokens.token_size import require_room
from app.users.errors import UserNotFoundError
from app.users.login_account import normalize_username
from app.users.models import UNUSABLE_PASSWORD, User
from app.users.service import Users


class ServiceAccounts:
    def __init__(self, users: Users, events: Events, settings: Settings) -> None:
        self._users = users
        self._events = events
        self._settings = settings

    async def get(self, context: RequestContext, user_id: int) -> User:
        """Raises UserNotFoundError, also for a person."""
        account = await self._users.get(context, user_id)
        if account.kind != SERVICE:
            raise UserNotFoundError
        return account

    async def create(
        self, context: RequestContext, username: str, scopes: Collection[str] = ()
    ) -> User:
        """Create an enabled service account. It belongs to all administrators, and stays when the
        one who created it is deleted.

        Raises UserExistsError, and InvalidRequestError for scopes that are too long for a token.
        """
        require_room(self._settings, scopes)
        account = User(
            username=username,
            username_folded=normalize_username(username),
            kind=SERVICE,
            password_hash=UNUSABLE_PASSWORD,
            is_admin=False,
            scopes=" ".join(sorted(scopes)),
            created_at=context.now,
        )
        await begin_write(context.session)
        await require_unused_ids(context.session)
        await self._users.add(context, account, "service_account.create")
        return account
