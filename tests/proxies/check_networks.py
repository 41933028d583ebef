"""Behind each proxy, an API key works from its networks only."""

import httpx

from tests.support.proxies import GUINEVERE, ProxiedHourpass
from tests.support.users import bearer

pytest_plugins = ["tests.support.proxy_fixtures"]

ALLOWED, OTHER = "127.0.0.2", "127.0.0.3"


def test_a_key_works_from_its_networks_only(url: str, hourpass: ProxiedHourpass) -> None:
    new = {"name": "notebook", "networks": [f"{ALLOWED}/32"]}
    headers = bearer(hourpass.token(GUINEVERE))
    created = hourpass.client.post("/me/api-keys", json=new, headers=headers)
    assert created.status_code == 201, created.text
    headers = bearer(created.json()["key"]) | {"X-Forwarded-For": ALLOWED}
    for path in ("/predict", "/train"):
        # Several of each within a second, so that a proxy that caches has a response.
        for address, status in ((ALLOWED, 200), (OTHER, 401), (ALLOWED, 200), (OTHER, 401)):
            transport = httpx.HTTPTransport(local_address=address, verify=False)
            with httpx.Client(transport=transport, base_url=url) as client:
                for _ in range(4):
                    response = client.post(path, headers=headers, json={})
                    assert response.status_code == status, (path, address)
