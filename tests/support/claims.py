"""What tests need to attack each claim of a token, at the service and at the guard."""

from typing import Any

from hypothesis import strategies as st

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


class NotedClaims(dict[str, Any]):
    """Remembers which claims it was asked for."""

    def __init__(self, claims: dict[str, Any]) -> None:
        super().__init__(claims)
        self.asked_for: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked_for.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        return self.get(name)
