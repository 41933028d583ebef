"""The formats that can be imported."""

from collections.abc import Mapping

from app.imports.auth0 import Auth0Reader
from app.imports.book import BookReader
from app.imports.columns import CsvReader, FastApiUsersReader, JsonLinesReader
from app.imports.django import DjangoReader
from app.imports.firebase import FirebaseReader
from app.imports.keycloak import KeycloakReader
from app.imports.reader import Reader

READERS: Mapping[str, type[Reader]] = {
    "keycloak": KeycloakReader,
    "auth0": Auth0Reader,
    "django": DjangoReader,
    "firebase": FirebaseReader,
    "fastapi-users": FastApiUsersReader,
    "csv": CsvReader,
    "jsonl": JsonLinesReader,
    "book": BookReader,
}
