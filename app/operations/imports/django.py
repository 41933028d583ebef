"""Reads what Django's `dumpdata` writes: users of any model, groups, and the devices of
django-otp."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from app.operations.imports import values
from app.operations.imports.errors import LeftOutError, Reason
from app.operations.imports.json_files import read_records
from app.operations.imports.reader import Reader

_TOTP = "otp_totp.totpdevice"
_EMAIL = "account.emailaddress"  # of django-allauth
_TOTP_PARAMETERS = {"step": 30, "t0": 0, "digits": 6}


class DjangoReader(Reader):
    """Reads the file twice, since the objects that belong to users may precede or follow them."""

    def records(self) -> Iterator[Any]:
        _ = self._related
        for object_ in read_records(self._path):
            fields = _fields(object_)
            has_name = "username" in fields or "email" in fields
            if has_name and isinstance(fields.get("password"), str):
                yield {**fields, "pk": object_.get("pk")}

    def read_user(self, record: Mapping[str, Any]) -> dict[str, Any]:
        groups, devices, verified = self._related
        owner = (_key(record.get("pk")), _key(record.get("username") or record.get("email")))
        found = values.read_fields(
            {
                "username": record.get("username"),
                "email": record.get("email"),
                "is_enabled": record.get("is_active"),
                "created_at": record.get("date_joined"),
                "password_hash": record.get("password"),
            }
        )
        email = found.get("email")
        found["email_verified"] = any((key, email) in verified for key in owner)
        found["roles"] = tuple(_roles(record, groups))
        for key in owner:
            for device in devices.get(key, []):
                try:
                    found["totp_secret"] = _read_totp(device)
                except LeftOutError as error:
                    found["second_factor_fault"] = error
        if "totp_secret" in found:
            found.pop("second_factor_fault", None)
        return found

    @cached_property
    def _related(
        self,
    ) -> tuple[dict[str, str], dict[str, list[Mapping[str, Any]]], set[tuple[str, Any]]]:
        """The names of groups, the devices of users, and verified e-mail addresses."""
        groups: dict[str, str] = {}
        devices: dict[str, list[Mapping[str, Any]]] = {}
        verified: set[tuple[str, Any]] = set()
        for object_ in read_records(self._path):
            fields = _fields(object_)
            model = object_["model"] if fields else None
            if model == "auth.group" and isinstance(fields.get("name"), str):
                groups[_key(object_.get("pk"))] = fields["name"]
            elif model == _TOTP and fields.get("confirmed") is True:
                devices.setdefault(_key(fields.get("user")), []).append(fields)
            elif model == _EMAIL and fields.get("verified") is True:
                email = fields.get("email")
                if isinstance(email, str):
                    verified.add((_key(fields.get("user")), email))
        return groups, devices, verified


def _fields(object_: Any) -> Mapping[str, Any]:
    if not isinstance(object_, dict) or not isinstance(object_.get("model"), str):
        return {}
    fields = object_.get("fields")
    return fields if isinstance(fields, dict) else {}


def _key(value: Any) -> str:
    """A text for a primary key or, with --natural-foreign, for a list with the name of the user or
    group."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return f"{type(value).__name__} {value}"


def _roles(record: Mapping[str, Any], groups: Mapping[str, str]) -> Iterator[str]:
    for name in ("is_superuser", "is_staff"):
        if record.get(name) is True:
            yield name
    for group in _list(record.get("groups")):
        if known := groups.get(_key(group)):
            yield known
        elif isinstance(group, list) and len(group) == 1 and isinstance(group[0], str):
            yield group[0]
    for permission in _list(record.get("user_permissions")):
        if isinstance(permission, list) and len(permission) == 3:
            yield f"{permission[1]}.{permission[0]}"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _read_totp(device: Mapping[str, Any]) -> bytes:
    if any(device.get(name) != value for name, value in _TOTP_PARAMETERS.items()):
        detail = "Its codes do not have 6 digits and 30 seconds"
        raise LeftOutError(Reason.SECOND_FACTOR, detail)
    try:
        return values.checked_totp_secret(bytes.fromhex(str(device.get("key"))))
    except ValueError:
        raise LeftOutError(Reason.SECOND_FACTOR, "The secret cannot be read") from None
