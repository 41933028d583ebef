"""What a file for `hourpass apply` may contain. An error names the line, and shows no secret."""

import pytest

from app.operations.manifests.errors import ManifestError
from app.operations.manifests.reader import MAX_BYTES, read_manifest


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(
            "users:\n  ada:\n    scope: [predict]\n",
            "team.yaml:3: users.ada.scope: Extra inputs are not permitted",
            id="an unknown member",
        ),
        pytest.param(
            "users:\n  ada: {}\n  bob: {}\n  ada: {}\n",
            "team.yaml:4: users.ada is there twice.",
            id="the same key twice",
        ),
        pytest.param(
            "users:\n  ada: {}\n  ADA: {}\n",
            "team.yaml:1: users: ada and ADA are the same name",
            id="the same name in another spelling",
        ),
        pytest.param(
            "groups:\n  a:\n    members: [ada, Ada]\n",
            "team.yaml:3: groups.a.members: ada and Ada are the same name",
            id="the same member twice",
        ),
        pytest.param(
            "users:\n  ada:\n    scopes: predict\n",
            "team.yaml:3: users.ada.scopes: Input should be a valid list",
            id="one scope that is no list",
        ),
        pytest.param(
            "users:\n  ada:\n    scopes: [a, admin]\n",
            "team.yaml:3: users.ada.scopes.1: admin and offline_access cannot be granted like this",
            id="admin among the scopes",
        ),
        pytest.param(
            "users:\n  ada:\n    is_admin: 'yes'\n",
            "team.yaml:3: users.ada.is_admin: Input should be a valid boolean",
            id="a text in place of yes",
        ),
        pytest.param(
            "users:\n  ada:\n    password: sesame\n",
            "team.yaml:3: users.ada.password: Extra inputs are not permitted",
            id="a password",
        ),
        pytest.param(
            "users:\n  123: {}\n",
            "team.yaml:2: Write this in quotes, so that YAML reads it as text.",
            id="a name that YAML reads as a number",
        ),
        pytest.param(
            "groups:\n  a:\n    members: [2026-01-01]\n",
            "team.yaml:3: Write this in quotes, so that YAML reads it as text.",
            id="a name that YAML reads as a date",
        ),
        pytest.param(
            "service_accounts:\n  scribe: {}\n",
            "team.yaml:2: service_accounts.scribe: Must begin with svc-",
            id="a service account without its prefix",
        ),
        pytest.param(
            "users: !!python/object/apply:os.system [ls]\n",
            "team.yaml:1: Write this in quotes, so that YAML reads it as text.",
            id="a tag of Python",
        ),
        pytest.param(
            "users:\n  ada: &a {}\n  bob: *a\n",
            "team.yaml:2: Anchors and aliases are not supported. Repeat the text.",
            id="an alias",
        ),
        pytest.param(
            "a: &a [l, l]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
            "team.yaml:1: Anchors and aliases are not supported. Repeat the text.",
            id="a billion laughs",
        ),
        pytest.param("a: " + "[" * 9, "team.yaml:1: The file is nested too deeply.", id="deep"),
        pytest.param(
            "[" * 100_000, "team.yaml:1: ", id="as deep as it fits, which some parsers refuse"
        ),
        pytest.param("users: {}\n---\n", "team.yaml:2: The file must have one document.", id="two"),
        pytest.param("users: ]", "team.yaml:1: This is not YAML:", id="no YAML"),
        pytest.param("users: \x01", "team.yaml: The file has a character", id="a control code"),
        pytest.param(
            'users:\n  "a\\e[2J": {}\n',
            "team.yaml:2: users.a\\x1b[2J: ",
            id="a name that a terminal would obey",
        ),
        pytest.param("- ada\n", "team.yaml:1: Input should be a valid dictionary", id="a list"),
        pytest.param(
            "#" * (MAX_BYTES + 1),
            "team.yaml: The file must have at most 1,048,576 bytes",
            id="long",
        ),
    ],
)
def test_an_error_names_the_line_of_the_file(content: str, problem: str) -> None:
    with pytest.raises(ManifestError) as refused:
        read_manifest(content.encode(), "team.yaml")
    first = str(refused.value).splitlines()[0]
    assert first.startswith(problem)
    assert "sesame" not in str(refused.value)


def test_a_file_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ManifestError, match="must be text in UTF-8"):
        read_manifest(b"users: {caf\xe9: {}}", "team.yaml")
