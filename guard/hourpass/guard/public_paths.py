"""Paths that need no token."""

from collections.abc import Iterable


class PublicPaths:
    """Exact paths, and all paths below one that ends in `/*`."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._paths, self._prefixes = _split(patterns)

    def contain(self, path: str, root_path: str = "", raw_path: bytes = b"") -> bool:
        """`path` is decoded once, as in ASGI; `raw_path` is what was sent. The app is mounted at
        `root_path`."""
        path = path_within(path, root_path)
        is_named = path in self._paths or path.startswith(self._prefixes)
        return is_named and has_one_meaning(path, raw_path)


def _split(patterns: Iterable[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Exact paths, and prefixes with their last slash."""
    if isinstance(patterns, str):
        raise TypeError("public is a list of paths")
    paths, prefixes = set(), []
    for pattern in patterns:
        path = pattern[:-1] if pattern.endswith("/*") else pattern
        if not path.startswith("/") or "*" in path:
            raise ValueError(f"a public path is /exact or /below/*, not {pattern}")
        if path is pattern:
            paths.add(path)
        else:
            prefixes.append(path)
    return frozenset(paths), tuple(prefixes)


def path_within(path: str, root_path: str) -> str:
    """The path relative to where the app is mounted, as its routes see it."""
    root = root_path.rstrip("/")
    return path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else path


def has_one_meaning(path: str, raw_path: bytes) -> bool:
    """False if the app could read it as another path: `/static/../private`, `/static//private`, a
    path that is encoded twice, or an encoded slash."""
    _, *segments = path.split("/")  # the first is empty: a public path begins with a slash
    return not (
        "" in segments[:-1]
        or any(segment.partition(";")[0] in (".", "..") for segment in segments)
        or any(character in path for character in "%\\\0")
        or b"%2f" in raw_path.lower()
    )
