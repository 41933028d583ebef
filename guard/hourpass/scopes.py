"""Scopes (RFC 6749, 3.3) as rights per model: `predict`, or with a name `predict:fraud-v3`.

A name may end in `*`, which matches the rest of any name: `predict:fraud-*`, `predict:*`,
`predict:meta-llama/*`. The service and the guard decide by the same function, `covers`.
"""

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from functools import lru_cache

MAX_SCOPE_LENGTH = 128

_ACTION = r"[\x21\x23-\x29\x2b-\x39\x3b-\x5b\x5d-\x7e]+"  # without " * : \
_SEGMENT = r"(?!\.\.?(?:/|$))[\x21\x23-\x29\x2b-\x2e\x30-\x5b\x5d-\x7e]+"  # without " * / \
_NAME = rf"(?:\*|{_SEGMENT}(?:/{_SEGMENT})*(?:/?\*)?)"
# A server may decode an escape once more, so that `%2F` would become a `/`, and `%2E%2E` a `..`.
_ESCAPE = r"%[0-9A-Fa-f]{2}"
_SCOPE = re.compile(rf"{_ACTION}(?::(?!.*{_ESCAPE}){_NAME})?")

# What is wrong with a scope that is not valid: the first pattern that it matches tells.
_ERRORS = (
    (re.compile(rf".{{{MAX_SCOPE_LENGTH + 1}}}", re.DOTALL), "A scope has at most 128 characters"),
    (
        re.compile(r"[\s\S]*[^\x21\x23-\x5b\x5d-\x7e]"),
        'A scope has visible ASCII characters only, except " and \\',
    ),
    (re.compile(r":|$"), "A scope begins with an action, as in predict:fraud-v3"),
    (re.compile(r"[^:]*:$"), "A name follows the colon, as in predict:fraud-v3"),
    (re.compile(r"[^:]*\*|.*\*."), "A * stands at the end of a name, as in predict:fraud-*"),
    (re.compile(rf".*{_ESCAPE}"), "A name is not percent-encoded"),
    (re.compile(r".*[:/]\.\.?(/|$)"), "A name has no segment . or .."),
    (re.compile(""), "A name does not begin or end with /, and has no //"),
)


def is_valid(scope: str) -> bool:
    return len(scope) <= MAX_SCOPE_LENGTH and _has_valid_syntax(scope)


def find_error(scope: str) -> str | None:
    """What is wrong with a scope, or None if it is valid."""
    if is_valid(scope):
        return None
    return next(text for pattern, text in _ERRORS if pattern.match(scope))


def covers(scopes: frozenset[str], needed: str) -> bool:
    """Whether scopes allow what needs the scope `needed`. `needed` may be a pattern: it is covered
    if every name that it matches is."""
    if needed in scopes:
        return True
    prefixes = _prefixes(scopes)
    # A name that cannot be granted is not matched by a pattern either.
    return needed.startswith(prefixes) and is_valid(needed)


def intersection(scopes: AbstractSet[str], others: AbstractSet[str]) -> frozenset[str]:
    """The scopes that allow what both sets allow."""
    first, second = frozenset(scopes), frozenset(others)
    return frozenset(
        {scope for scope in first if covers(second, scope)}
        | {scope for scope in second if covers(first, scope)}
    )


def without(scopes: frozenset[str], excluded: frozenset[str]) -> frozenset[str]:
    """The scopes that have nothing in common with the excluded ones. A pattern that covers an
    excluded scope is removed as a whole: no scope says "all names but this one"."""
    return frozenset(
        scope
        for scope in scopes
        if not covers(excluded, scope)
        and not any(covers(frozenset({scope}), other) for other in excluded)
    )


def scope_string(scopes: Iterable[str]) -> str:
    """As the claim `scope` and the parameter `scope` list them (RFC 6749, 3.3)."""
    return " ".join(sorted(scopes))


@lru_cache(maxsize=4096)
def _has_valid_syntax(scope: str) -> bool:
    return _SCOPE.fullmatch(scope) is not None


@lru_cache(maxsize=4096)
def _prefixes(scopes: frozenset[str]) -> tuple[str, ...]:
    return tuple(scope[:-1] for scope in scopes if scope.endswith("*") and is_valid(scope))
