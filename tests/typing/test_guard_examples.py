"""`make lint` runs mypy and pyright on guard_examples.py, which has the example of the README."""

import re
from pathlib import Path

from app.settings import ROOT


def test_the_first_example_of_the_readme_is_type_checked() -> None:
    readme = (ROOT / "guard" / "README.md").read_text()
    found = re.search(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert found
    _, example = found[1].split("from hourpass import Guard, User\n")
    assert example in Path(__file__).with_name("guard_examples.py").read_text()
