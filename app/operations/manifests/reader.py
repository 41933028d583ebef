"""Reads the file. Its values are texts, `true`, `false` and lists of texts, so anything else that
YAML can do is refused: aliases, which can make a small file endless, tags, and numbers or dates,
which are names that lack quotes."""

from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.operations.manifests.errors import ManifestError
from app.operations.manifests.schemas import Manifest

MAX_BYTES = 1_048_576
MAX_DEPTH = 8

_TEXT = "tag:yaml.org,2002:str"
_BOOL = "tag:yaml.org,2002:bool"
_NULL = "tag:yaml.org,2002:null"
_TAGS = {_TEXT, _BOOL, _NULL, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
_BOOLS = yaml.SafeLoader.bool_values

_UNQUOTED = "Write this in quotes, so that YAML reads it as text."

# In C where libyaml is there: ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Path = tuple[str | int, ...]


def read_manifest(content: bytes, name: str) -> Manifest:
    """`name` is that of the file, for errors. Raises ManifestError."""
    if len(content) > MAX_BYTES:
        raise ManifestError(f"{name}: The file must have at most {MAX_BYTES:,} bytes.")
    lines: dict[Path, int] = {}
    try:
        text = content.decode("utf-8-sig")
        _check_events(text)
        node = yaml.compose(text, Loader=_Loader)
        value = {} if node is None else _value_of(node, (), lines)
        return Manifest.model_validate(value)
    except UnicodeDecodeError:
        raise ManifestError(f"{name}: The file must be text in UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ManifestError(f"{name}:{line}: This is not YAML: {error.problem}.") from None
    except yaml.YAMLError:  # a character that YAML does not allow
        raise ManifestError(f"{name}: The file has a character that YAML forbids.") from None
    except _ProblemError as problem:
        raise ManifestError(f"{name}:{problem.line}: {problem}") from None
    except ValidationError as error:
        problems = [_describe(problem, name, lines) for problem in error.errors()]
        raise ManifestError("\n".join(problems)) from None


class _ProblemError(Exception):
    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def _check_events(text: str) -> None:
    """Before anything is built from them."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _ProblemError(line, "The file must have one document.")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _ProblemError(line, "Anchors and aliases are not supported. Repeat the text.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _ProblemError(line, "The file is nested too deeply.")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _value_of(node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    """Notes the line of each value."""
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if node.tag not in _TAGS:
        raise _ProblemError(line, _UNQUOTED)
    if isinstance(node, yaml.SequenceNode):
        return [_value_of(item, (*path, index), lines) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        members: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag != _TEXT:
                raise _ProblemError(line, _UNQUOTED)
            if key.value in members:
                raise _ProblemError(line, f"{_shown((*path, key.value))} is there twice.")
            lines[*path, key.value] = line
            members[key.value] = _value_of(value, (*path, key.value), lines)
        return members
    if node.tag == _BOOL:
        return _BOOLS[node.value.lower()]
    return None if node.tag == _NULL else node.value


def _describe(problem: ErrorDetails, name: str, lines: dict[Path, int]) -> str:
    path: Path = tuple(part for part in problem["loc"] if part != "[key]")
    place = path
    while place not in lines:  # a member that is missing, for example
        place = place[:-1]
    shown = f"{_shown(path)}: " if path else ""
    return f"{name}:{lines[place]}: {shown}{problem['msg']}"


def _shown(path: Path) -> str:
    """Characters that a terminal would obey are escaped: the file may come from a stranger."""
    text = ".".join(map(str, path))
    return "".join(part if part.isprintable() else ascii(part)[1:-1] for part in text)
