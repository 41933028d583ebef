"""Secret scanners can do what docs/api-keys.md tells them."""

import re
from typing import Any

from app.credentials.api_keys.schemas import ApiKeyCreated
from app.settings import ROOT
from hourpass.api_keys import generate_key, is_well_formed

PAGE = (ROOT / "docs/api-keys.md").read_text()


def test_the_program_of_the_page_finds_typing_errors() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    page: dict[str, Any] = {}
    exec(program, page)
    keys = [generate_key() for _ in range(100)]
    assert all(page["has_valid_checksum"](key) for key in keys)
    assert not any(page["has_valid_checksum"](key[:-1] + "_") for key in keys)


def test_the_pattern_of_the_page_finds_the_example_of_the_page() -> None:
    (pattern,) = re.findall(r"```text\n(hp_\[.*?)\n```", PAGE)
    (example,) = set(re.findall(pattern, PAGE))
    assert is_well_formed(example)
    assert ApiKeyCreated.model_fields["key"].examples == [example]
