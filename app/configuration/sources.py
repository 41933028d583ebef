"""Where the values of settings come from: the environment, `.env`, and files that they name.

`NAME_FILE` names a file whose content is the value of the setting NAME, as containers get secrets.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsError

MAX_FILE_BYTES = 65_536
# In `.env` beside our settings: the two variables that are none, those of docker compose and of
# OpenTelemetry.
_NOT_OURS = (
    *("HOURPASS_HOME", "ENV_FILE", "POSTGRES_", "COMPOSE_", "DOCKER_", "UVICORN_", "OTEL_"),
    *("HOURPASS_IMAGE", "HOURPASS_MEMORY", "PYTHON_IMAGE"),
)
_SIMILAR_IN_FILE = 0.6  # of difflib
_SIMILAR_IN_ENVIRONMENT = 0.85  # which has the variables of all other programs too


class FileSource(PydanticBaseSettingsSource):
    """The settings whose value is in a file. Raises SettingsError."""

    def __init__(self, settings_class: type[BaseSettings], env_file: Path) -> None:
        super().__init__(settings_class)
        self._given = read_names(env_file)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = field_name.upper()
        path = self._given.get(f"{name}_FILE")
        if path is None:
            return None, field_name, False
        if name in self._given:
            raise SettingsError(f"{name} and {name}_FILE are both set. Remove one of them.")
        return _read_value(name, Path(path)), field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in values.items() if value is not None}


def read_names(env_file: Path) -> dict[str, str]:
    """All variables that are not empty, in upper case. The environment overrides the file."""
    return {**_upper(read_env_file(env_file)), **_upper(os.environ)}


def read_env_file(env_file: Path) -> dict[str, str | None]:
    try:
        return dotenv_values(env_file) if env_file.is_file() else {}
    except UnicodeDecodeError:
        raise SettingsError(f"{env_file} must be a text file in UTF-8") from None
    except OSError as error:
        raise SettingsError(f"Cannot read {env_file}: {error.strerror}") from None


def find_unknown_names(settings: Iterable[str], env_file: Path) -> Iterator[str]:
    """A sentence for each name that is probably a misspelt setting: every unknown one in the file,
    and similar ones in the environment."""
    names = [name.upper() for name in settings]
    known = {*names, *(f"{name}_FILE" for name in names)}
    for name in _upper(read_env_file(env_file)):
        if name not in known and not name.startswith(_NOT_OURS):
            yield f"{env_file} has {name}, which is no setting.{_hint(name, names)}"
    for name in _upper(os.environ):
        if name not in known and not name.startswith(_NOT_OURS):
            hint = _hint(name, names, _SIMILAR_IN_ENVIRONMENT)
            if hint:
                yield f"The environment has {name}, which is no setting.{hint}"


def find_origin(name: str, env_file: Path) -> str:
    """Where the value of a setting comes from."""
    name = name.upper()
    if name in _upper(os.environ):
        return "environment"
    if path := read_names(env_file).get(f"{name}_FILE"):
        return path
    return str(env_file) if name in _upper(read_env_file(env_file)) else "default"


def _hint(name: str, names: list[str], similarity: float = _SIMILAR_IN_FILE) -> str:
    nearest = get_close_matches(name, names, 1, similarity)
    return f" Did you mean {nearest[0]}?" if nearest else ""


def _upper(variables: Mapping[str, str | None]) -> dict[str, str]:
    return {name.upper(): value for name, value in variables.items() if value}


def _read_value(name: str, path: Path) -> str:
    """Without the line break at the end, which editors and `echo` add."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise SettingsError(f"{name}_FILE must name a file of at most {MAX_FILE_BYTES} bytes")
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SettingsError(f"{name}_FILE must name a text file in UTF-8") from None
    except OSError as error:
        raise SettingsError(f"{name}_FILE names {path}: {error.strerror}") from None
