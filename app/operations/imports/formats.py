"""The formats that can be imported."""

from collections.abc import Mapping

from app.operations.imports.auth0 import Auth0Reader
from app.operations.imports.book import BookReader
from app.operations.imports.columns import CsvReader, FastApiUsersReader, JsonLinesReader
from app.operations.imports.django import DjangoReader
from app.operations.imports.firebase import FirebaseReader
from app.operations.imports.keycloak import KeycloakReader
from app.operations.imports.reader import Reader

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
