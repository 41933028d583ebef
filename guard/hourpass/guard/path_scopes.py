"""Scopes by path, for middleware: `{"/models/{model}/predict": "predict:{model}"}`."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from hourpass.errors import InvalidRequestError
from hourpass.guard.public_paths import has_one_meaning, path_within
from hourpass.guard.requirements import Requirement

PathScopes = Mapping[str, str | Collection[str] | Requirement]

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Matched(NamedTuple):
    requirement: Requirement
    names: dict[str, list[str]]  # from the path


class ScopesByPath:
    """Every pattern that matches counts, so a pattern never weakens another."""

    def __init__(self, scopes: PathScopes | None) -> None:
        self._rules = [_rule(pattern, needed) for pattern, needed in (scopes or {}).items()]
        self.reads_body = any(requirement.reads_body for _, requirement in self._rules)

    def matching(self, path: str, root_path: str = "", raw_path: bytes = b"") -> list[Matched]:
        """`path` is decoded once, and `raw_path` is what was sent, as in ASGI.

        Raises InvalidRequestError if the app could read the path as another one.
        """
        if not self._rules:
            return []
        within = path_within(path, root_path)
        if (
            not path.startswith("/")
            or not has_one_meaning(path, raw_path)
            or ";" in path
            or _CONTROL.search(path)
        ):
            raise InvalidRequestError("The path can be read in several ways")
        # An app that ignores the root path sees the whole path.
        return list(self._found(dict.fromkeys((within, path))))

    def described(self, path: str) -> list[str]:
        """The scopes of a path of OpenAPI, such as `/models/{model}`, as templates."""
        found = self._found([path])
        return [scope for matched in found for scope in matched.requirement.scopes]

    def _found(self, paths: Collection[str]) -> Iterator[Matched]:
        for pattern, requirement in self._rules:
            for path in paths:
                if found := pattern.fullmatch(path):
                    names = found.groupdict()
                    yield Matched(requirement, {name: [names[name]] for name in names})


def _rule(
    pattern: str, needed: str | Collection[str] | Requirement
) -> tuple[re.Pattern[str], Requirement]:
    requirement = (
        needed
        if isinstance(needed, Requirement)
        else Requirement(*([needed] if isinstance(needed, str) else needed))
    )
    compiled = _compile(pattern)
    if missing := requirement.path_names - compiled.groupindex.keys():
        raise ValueError(f"{pattern} has no {{{min(missing)}}}")
    return compiled, requirement


def _compile(pattern: str) -> re.Pattern[str]:
    """Letter case and a slash at the end do not matter, because they do not for some apps."""
    below = pattern.endswith("/*")
    path = (pattern[:-2] if below else pattern).rstrip("/")
    literals = _PLACEHOLDER.sub("", path)
    if not pattern.startswith("/") or any(letter in literals for letter in "*{}"):
        raise ValueError(f"A path is /exact, /with/{{name}} or /below/*, not {pattern}")
    expression, position = "", 0
    for found in _PLACEHOLDER.finditer(path):
        expression += re.escape(path[position : found.start()])
        expression += f"(?P<{found[1]}>{'.+?' if found[2] else '[^/]+'})"
        position = found.end()
    expression += re.escape(path[position:]) + ("(?:/.*)?" if below else "/?")
    return re.compile(expression, re.IGNORECASE | re.DOTALL)
