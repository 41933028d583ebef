"""Reads the export of a Keycloak realm with its users."""

from collections.abc import Iterator, Mapping
from typing import Any

from app.operations.imports import hashes, values
from app.operations.imports.errors import LeftOutError, Reason
from app.operations.imports.json_files import read_records
from app.operations.imports.reader import Reader
from app.security import imported_hashes

_DIGESTS: Mapping[str, imported_hashes.Digest] = {
    "pbkdf2": "sha1",
    "pbkdf2-sha256": "sha256",
    "pbkdf2-sha512": "sha512",
}
_ARGON2_VERSIONS = {"1.3": 19, "1.0": 16}


class KeycloakReader(Reader):
    def records(self) -> Iterator[Any]:
        return read_records(self._path, "users")

    def read_user(self, record: Mapping[str, Any]) -> dict[str, Any]:
        if record.get("serviceAccountClientId") is not None:
            detail = "Create it with `hourpass service-accounts create`"
            raise LeftOutError(Reason.SERVICE, detail)
        found = values.read_fields(
            {
                "username": record.get("username"),
                "email": record.get("email"),
                "email_verified": record.get("emailVerified"),
                "is_enabled": record.get("enabled"),
                "created_at": record.get("createdTimestamp"),
            }
        )
        found["roles"] = tuple(_roles(record))
        credentials = record.get("credentials") or []
        if not isinstance(credentials, list):
            raise LeftOutError(Reason.RECORD, "Its credentials are not a list")
        for credential in credentials:
            _read_credential(credential, found)
        return found


def _roles(record: Mapping[str, Any]) -> Iterator[str]:
    """Realm roles by their names, client roles as client/role, groups as /group."""
    yield from values.names(record.get("realmRoles") or [])
    yield from values.names(record.get("groups") or [])
    for client, roles in values.members(record.get("clientRoles") or {}).items():
        yield from (f"{client}/{role}" for role in values.names(roles))


def _read_credential(credential: Any, found: dict[str, Any]) -> None:
    credential = values.members(credential)
    kind = credential.get("type")
    if kind == "password":
        try:
            found["password_hash"] = _read_password(credential)
        except LeftOutError as error:
            found["password_fault"] = error
    elif kind in ("otp", "webauthn") and "totp_secret" not in found:
        try:
            found["totp_secret"] = _read_totp(credential)
            found.pop("second_factor_fault", None)
        except LeftOutError as error:
            found["second_factor_fault"] = error


def _read_password(credential: Mapping[str, Any]) -> str:
    parameters, secret = _parts(credential, Reason.HASH)
    algorithm = str(parameters.get("algorithm"))
    try:
        salt = values.base64_bytes(secret.get("salt"))
        value = values.base64_bytes(secret.get("value"))
        rounds = _number(parameters.get("hashIterations"))
        if algorithm in _DIGESTS:
            return imported_hashes.pbkdf2(_DIGESTS[algorithm], rounds, salt, value)
        if algorithm == "argon2":
            more = values.members(parameters.get("additionalParameters"))
            return hashes.argon2(
                _kind(_first(more, "type")),
                _ARGON2_VERSIONS[_first(more, "version")],
                _number(_first(more, "memory")),
                rounds,
                _number(_first(more, "parallelism")),
                salt,
                value,
            )
    except (ValueError, KeyError):
        raise LeftOutError(Reason.HASH, "Its parameters cannot be read") from None
    raise LeftOutError(Reason.HASH, "Its algorithm is none of Keycloak's own")


def _read_totp(credential: Mapping[str, Any]) -> bytes:
    if credential["type"] != "otp":
        raise LeftOutError(Reason.SECOND_FACTOR, "It is a security key")
    parameters, secret = _parts(credential, Reason.SECOND_FACTOR)
    expected = {"subType": "totp", "digits": 6, "period": 30, "algorithm": "HmacSHA1"}
    if any(parameters.get(name) != value for name, value in expected.items()):
        raise LeftOutError(
            Reason.SECOND_FACTOR, "Its codes are not those of TOTP with SHA-1, 6 digits, 30 seconds"
        )
    value = secret.get("value")
    if parameters.get("secretEncoding") == "BASE32":
        return values.totp_secret(value)
    return values.checked_totp_secret(str(value).encode(errors="replace"))


def _parts(credential: Mapping[str, Any], reason: Reason) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters and the secret, both of which are JSON in a text."""
    try:
        data = values.members(credential.get("credentialData"))
        return data, values.members(credential.get("secretData"))
    except LeftOutError:
        raise LeftOutError(reason, "The credential cannot be read") from None


def _first(parameters: Mapping[str, Any], name: str) -> str:
    """Keycloak stores a list of texts for each. Raises ValueError."""
    found = parameters.get(name)
    if isinstance(found, list) and found and isinstance(found[0], str):
        return found[0]
    raise ValueError(name)


def _kind(name: str) -> str:
    if name not in ("id", "i", "d"):
        raise ValueError(name)
    return name


def _number(value: Any) -> int:
    """Raises ValueError."""
    number = int(str(value)) if len(str(value)) <= 10 else 0
    if number < 1:
        raise ValueError("not a positive number of ten digits at most")
    return number
