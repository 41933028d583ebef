"""Which scopes are valid, and what they cover."""

import pytest

from hourpass.scopes import MAX_SCOPE_LENGTH, covers, find_error, intersection, is_valid


@pytest.mark.parametrize(
    "scope",
    [
        "predict",
        "read/all",
        "predict:fraud-v3",
        "predict:fraud-*",
        "predict:*",
        "predict:meta-llama/Llama-3.1-8B-Instruct",
        "predict:meta-llama/*",
        "predict:llama3:8b",
        "predict:.hidden",
        "predict:..two",
        "predict:a.b/c..d",
        "predict:100%",
        "p" * MAX_SCOPE_LENGTH,
    ],
)
def test_it_is_valid(scope: str) -> None:
    assert is_valid(scope)
    assert find_error(scope) is None


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        ("", "begins with an action"),
        (":fraud", "begins with an action"),
        ("predict:", "follows the colon"),
        ("*", "at the end of a name"),
        ("predict*", "at the end of a name"),
        ("pre*dict:x", "at the end of a name"),
        ("predict:**", "at the end of a name"),
        ("predict:*x", "at the end of a name"),
        ("predict:a*/b", "at the end of a name"),
        ("predict:a//b", "not begin or end with /"),
        ("predict:/a", "not begin or end with /"),
        ("predict:a/", "not begin or end with /"),
        ("predict:a//*", "not begin or end with /"),
        ("predict:/*", "not begin or end with /"),
        ("predict:..", "no segment . or .."),
        ("predict:./a", "no segment . or .."),
        ("predict:a/../b", "no segment . or .."),
        ("predict:a/..", "no segment . or .."),
        ("predict:a%2Fb", "percent-encoded"),
        ("predict:%2e%2e/b", "percent-encoded"),
        ("predict:a b", "visible ASCII"),
        ("predict:a\tb", "visible ASCII"),
        ("predict:a\n", "visible ASCII"),
        ('predict:"a"', "visible ASCII"),
        ("predict:a\\b", "visible ASCII"),
        ("predict:größe", "visible ASCII"),
        ("p" * 300, "at most 128 characters"),
    ],
)
def test_it_is_not_valid_and_the_reason_is_named(scope: str, reason: str) -> None:
    assert not is_valid(scope)
    assert reason in (find_error(scope) or "")


@pytest.mark.parametrize(
    ("scopes", "needed"),
    [
        ({"predict"}, "predict"),
        ({"predict:fraud-v3"}, "predict:fraud-v3"),
        ({"predict:fraud-*"}, "predict:fraud-v3"),
        ({"predict:fraud-*"}, "predict:fraud-"),
        ({"predict:fraud-*"}, "predict:fraud-v*"),
        ({"predict:*"}, "predict:meta-llama/Llama-3.1-8B-Instruct"),
        ({"predict:*"}, "predict:fraud-*"),
        ({"predict:meta-llama/*"}, "predict:meta-llama/Llama-3.1-8B-Instruct"),
        ({"train", "predict:a*", "predict:b*"}, "predict:bee"),
    ],
)
def test_scopes_cover(scopes: set[str], needed: str) -> None:
    assert covers(frozenset(scopes), needed)


@pytest.mark.parametrize(
    ("scopes", "needed"),
    [
        (set(), "predict"),
        ({"predict"}, "predict:fraud-v3"),
        ({"predict:*"}, "predict"),
        ({"predict:fraud-v3"}, "predict:Fraud-v3"),
        ({"predict:fraud-v*"}, "predict:fraud-*"),
        ({"predict:fraud-*"}, "predict:*"),
        ({"predict:meta-llama/*"}, "predict:meta-llama"),
        ({"predict:meta-llama/*"}, "predict:meta-llama-2/x"),
        ({"predict:*"}, "train:x"),
        ({"predict:*"}, "predict:"),
        ({"predict:*"}, "predict:a/../b"),
        ({"predict:*"}, "predict:a//b"),
        ({"predict:*"}, "predict:a b"),
        ({"predict:*"}, "predict:" + "x" * MAX_SCOPE_LENGTH),
        ({"*"}, "predict:x"),
        ({"pre*"}, "predict"),
    ],
)
def test_scopes_do_not_cover(scopes: set[str], needed: str) -> None:
    assert not covers(frozenset(scopes), needed)


@pytest.mark.parametrize(
    ("scopes", "others", "expected"),
    [
        ({"predict:*"}, {"predict:fraud-*", "train"}, {"predict:fraud-*"}),
        ({"predict:fraud-*"}, {"predict:*"}, {"predict:fraud-*"}),
        (
            {"predict:a*", "predict:b"},
            {"predict:ab*", "predict:*"},
            {"predict:a*", "predict:ab*", "predict:b"},
        ),
        ({"predict:a*"}, {"predict:b*"}, set()),
        ({"train"}, {"train"}, {"train"}),
        ({"train"}, set(), set()),
    ],
)
def test_the_intersection_allows_what_both_allow(
    scopes: set[str], others: set[str], expected: set[str]
) -> None:
    assert intersection(scopes, others) == intersection(others, scopes) == expected
