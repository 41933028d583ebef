"""The table in docs/configuration.md lists every setting with its default and meaning.

`python -m tests.project.test_configuration_page` writes the table anew.
"""

import re

from app.settings import ROOT, Settings

PAGE = ROOT / "docs/configuration.md"


def settings_table() -> str:
    """One row for each setting, in the order of `Settings`."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        rows.append(f"| `{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def test_the_table_lists_every_setting() -> None:
    assert settings_table() in PAGE.read_text()


def test_settings_in_the_text_exist() -> None:
    text = PAGE.read_text().replace(settings_table(), "")
    named = set(re.findall(r"`([A-Z][A-Z0-9_]+)[`=]", text))
    not_ours = {"ENV_FILE", "HOURPASS_HOME", "NAME", "NAME_FILE"}
    not_ours |= {"SECRET_KEY_FILE", "POSTGRES_", "COMPOSE_", "DOCKER_", "UVICORN_"}
    assert named > not_ours
    assert named - not_ours <= {name.upper() for name in Settings.model_fields}


if __name__ == "__main__":
    table = re.compile(r"^\| setting \| default .*?\n(?!\|)", re.MULTILINE | re.DOTALL)
    PAGE.write_text(table.sub(lambda _: settings_table(), PAGE.read_text(), count=1))
