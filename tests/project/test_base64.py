"""Base64 is decoded strictly everywhere: a character outside the alphabet makes it invalid.

Otherwise one value has many spellings, and Python 3.15 warns about each such character.
"""

import ast
from collections.abc import Iterator

from app.settings import ROOT

STRICT = {"b64decode": "validate=True", "a2b_base64": "strict_mode=True"}
LENIENT = {"urlsafe_b64decode", "standard_b64decode", "decodebytes", "base64url_decode"}


def lenient_calls() -> Iterator[str]:
    for path in [*(ROOT / "app").rglob("*.py"), *(ROOT / "guard/hourpass").rglob("*.py")]:
        source = path.read_text()
        if not any(name in source for name in (*STRICT, *LENIENT)):
            continue  # parsing it would find nothing
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).rpartition(".")[2]
                options = {ast.unparse(option) for option in node.keywords}
                if name in LENIENT or (name in STRICT and STRICT[name] not in options):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_base64_is_decoded_strictly() -> None:
    assert list(lenient_calls()) == []
