"""What a request needs: scopes, with names that come from the request, as in `predict:{model}`.

A name from a request never becomes a pattern, and never a part of another name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from hourpass.errors import InsufficientScopeError, InvalidRequestError
from hourpass.guard.name_readers import NameReader
from hourpass.scopes import is_valid
from hourpass.user import User

_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")  # RFC 6749, 3.3
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

Names = Mapping[str, Sequence[str]]


class ScopeTemplate:
    """A scope in which `{name}` stands for a name from the request."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.placeholders = tuple(_PLACEHOLDER.findall(text))
        if not _SCOPE.fullmatch(text):
            raise ValueError("require() takes scopes, each without spaces")
        if not self.placeholders:
            return
        action, _, name = text.partition(":")
        # With two names in one segment, the scopes of ("a-b", "c") and ("a", "b-c") would be one.
        if (
            "{" in action
            or not is_valid(_PLACEHOLDER.sub("x", text))
            or any(len(_PLACEHOLDER.findall(segment)) > 1 for segment in name.split("/"))
        ):
            raise ValueError(
                f"In scopes, {{name}} stands after the colon, once between two slashes, not {text}"
            )

    def fill(self, values: Mapping[str, str]) -> str:
        """Raises InvalidRequestError if a value is not a valid name."""
        for placeholder in self.placeholders:
            value = values[placeholder]
            is_ambiguous = len(self.placeholders) > 1 and "/" in value
            if "*" in value or is_ambiguous or not is_valid(f"x:{value}"):
                raise InvalidRequestError("The name of the model is malformed")
        scope = _PLACEHOLDER.sub(lambda found: values[found[1]], self.text)
        if not is_valid(scope):  # too long, or `..` from a name and what stands beside it
            raise InvalidRequestError("The name of the model is malformed")
        return scope

    def fill_all(self, names: Names) -> list[str]:
        """A scope for each combination of names."""
        if not self.placeholders:
            return [self.text]
        choices = product(*(names[placeholder] for placeholder in self.placeholders))
        return [self.fill(dict(zip(self.placeholders, chosen, strict=True))) for chosen in choices]


class Requirement:
    """`Requirement("predict:{model}", model=from_json("model"))`: scopes that a request needs.

    A name without a reader is a parameter of the path.
    """

    def __init__(self, *scopes: str, **readers: NameReader) -> None:
        if not scopes:
            raise ValueError("require() takes scopes, each without spaces")
        self._templates = tuple(map(ScopeTemplate, scopes))
        placeholders = {name for template in self._templates for name in template.placeholders}
        if unused := readers.keys() - placeholders:
            raise ValueError(f"No scope has the name {{{min(unused)}}}")
        self.scopes = scopes
        self.readers = readers
        self.path_names = frozenset(placeholders - readers.keys())
        self.is_fixed = not placeholders
        self.reads_body = any(reader.reads_body for reader in readers.values())
        self.max_body = min(reader.max_body for reader in readers.values()) if readers else 0

    def check(self, user: User, names: Names) -> None:
        """Raises InvalidRequestError and InsufficientScopeError."""
        needed = self.scopes if self.is_fixed else tuple(self._filled(names))
        require_scopes(user, needed)

    def _filled(self, names: Names) -> Iterable[str]:
        scopes = [scope for template in self._templates for scope in template.fill_all(names)]
        return dict.fromkeys(scopes)


def require_scopes(user: User, needed: Sequence[str]) -> None:
    """Raises InsufficientScopeError."""
    if not all(map(user.may, needed)):
        raise InsufficientScopeError(*needed)


def visible_names(user: User, names: Iterable[str], scope: str) -> list[str]:
    """The names with which the user's scopes cover the template `scope`."""
    template = ScopeTemplate(scope)
    if len(template.placeholders) != 1:
        raise ValueError("visible() takes a scope with one {name}")
    [placeholder] = template.placeholders

    def is_visible(name: str) -> bool:
        try:
            return user.may(template.fill({placeholder: name}))
        except InvalidRequestError:  # cannot be granted
            return False

    return list(filter(is_visible, names))
