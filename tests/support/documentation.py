"""Code in the documentation."""

import re
from pathlib import Path


def block(document: Path, language: str, containing: str) -> str:
    """The one fenced block in that language that contains the text."""
    pattern = rf"^```{language}\n(.*?)^```$"
    blocks = re.findall(pattern, document.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return str(found)
