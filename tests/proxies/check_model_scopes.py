"""A scope for each model, as each proxy of examples/ demands it: `/models/fraud-v3/…` needs
`predict:fraud-v3`."""

import re
from urllib.parse import unquote

import httpx
import pytest

from tests.support.model_server import Model
from tests.support.proxies import ELAINE, MERLIN, ProxiedHourpass, connection, head_of_answer
from tests.support.users import GALAHAD, bearer

pytest_plugins = ["tests.support.proxy_fixtures"]

MINE = ["/models/fraud-v3/predict", "/models/fraud-v3", "/models/fraud-v3/", "/models/fraud-v3/a/b"]
# Elaine may use fraud-v3. To some model server, each of these may be another model.
NOT_MINE = """
/models/other/predict /models/other /models/fraud-v3x/predict /models/fraud-v/predict
/models/FRAUD-V3/predict /Models/other/predict /MODELS/other /models/*/predict /models/%2a/predict
/models/%2A/predict /models/fraud-*/predict /models/fraud-v3*/predict /models/other%2fpredict
/models%2fother/predict /models%2Fother%2Fpredict /%2fmodels/other/predict /%6dodels/other/predict
/%4dodels/other/predict /models/%6fther/predict //models/other/predict /models//other/predict
/models/./other/predict /models/fraud-v3/../other/predict /models/fraud-v3/%2e%2e/other/predict
/models/fraud-v3/.%2e/other/predict /models/fraud-v3%2f..%2fother/predict
/models/fraud-v3/..%2fother/predict /models/fraud-v3/..;/other/predict
/models/fraud-v3/..%3b/other/predict /models/fraud-v3/%2e%2e;x/other/predict
/x/../models/other/predict /x/%2e%2e/models/other/predict /x/..;/models/other/predict
/x/..%2fmodels/other/predict /x%2f..%2fmodels/other/predict /x/..;a=b/%6dodels/other/predict
/train/..;/models/other/predict /models;x/other/predict /models;x=/other/predict
/models/other;x/predict /models/;x/other/predict /models/fraud-v3&scope=/predict
/models/fraud-v3%26scope=predict/predict /models/other&scope=predict:fraud-v3/predict
/models/other%3fscope=predict:fraud-v3 /models/other?scope=predict:fraud-v3
/models/other?/models/fraud-v3/ /models/other%23/fraud-v3 /models/fraud-v3%0a/predict
/models/fraud-v3%0d%0aX:%20y/predict /models/%0aother/predict /models%0a/other/predict
/models/fraud-v3%00/predict /models/other%00/predict /models/fraud-v3%20predict:iris/predict
/models/fraud-v3+predict/predict /models/%66raud-v3%2b/predict /models/%252e%252e/other/predict
/models/fraud-v3%25/predict /models%5cother/predict /models\\other\\predict
/models/fraud-v3/..\\other/predict /models/fraud-v3/..%5cother/predict /models/%c3%b6ther/predict
/models/other/../../x /models/other/..%2f..%2fx /%6dodels/other/%2e%2e/../x /models/other/../x
http://model.example/models/other/predict http://model.example//models/other/predict
""".split()  # noqa: SIM905 - easier to read than a list of as many lines


def ask(url: str, path: str, token: str) -> str:
    """The status."""
    head = f"Host: model.example\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n"
    with connection(url, f"POST {path} HTTP/1.1\r\n{head}\r\n") as asked:
        return head_of_answer(asked)[9:12]


def test_the_users_of_a_model_reach_it(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model, subtests: pytest.Subtests
) -> None:
    elaine, galahad = bearer(hourpass.token(ELAINE)), bearer(hourpass.token(GALAHAD))
    for path in MINE:
        for query in ("", "?x=1", "?scope=", "?scope=train"):
            with subtests.test(path + query):
                model.seen.clear()
                response = proxy.post(path + query, headers=elaine)
                assert response.status_code == 200
                assert [seen.path for seen in model.seen] == [path + query]
                assert model.seen[0].values("X-Auth-Username") == ["elaine"]
    model.seen.clear()
    for path in MINE:
        with subtests.test(f"{path} without the scope"):
            response = proxy.post(path, headers=galahad)
            assert response.status_code == 403
            assert 'scope="predict:fraud-v3"' in response.headers["WWW-Authenticate"]
            assert proxy.post(path).status_code == 401
    assert model.seen == []


def test_no_spelling_of_a_path_reaches_another_model(
    url: str, hourpass: ProxiedHourpass, model: Model, subtests: pytest.Subtests
) -> None:
    token = hourpass.token(ELAINE)
    for path in NOT_MINE:
        with subtests.test(path):
            model.seen.clear()
            status = ask(url, path, token)
            # A proxy may clean a path, if it forwards what it has checked.
            seen = [request.path for request in model.seen]
            assert [other for other in seen if may_be_another_model(other)] == []
            assert status in ("400", "401", "403", "404", "200" if seen else "400", "")
    assert [path for path in NOT_MINE if not may_be_another_model(path)] == []


def may_be_another_model(path: str) -> bool:
    """Whether some model server could read it as the path of another model."""
    is_mine = re.fullmatch(r"/models/fraud-v3(/[a-z0-9-]+)*/?(\?.*)?", path)
    return not is_mine and path != "/x" and "models" in unquote(path).lower()


def test_a_model_without_a_rule_of_its_own_needs_a_scope_too(
    kind: str, proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    """nginx and Caddy ask for the model's own scope, Traefik and Envoy for all models that have no
    rule."""
    if kind in ("traefik", "envoy"):
        headers = bearer(hourpass.token(MERLIN))
        assert proxy.post("/models/other/predict", headers=headers).status_code == 200
    else:
        headers = bearer(hourpass.token(ELAINE))
        assert proxy.post("/models/iris/predict", headers=headers).status_code == 200
    assert len(model.seen) == 1


def test_the_list_of_models_and_other_paths_need_no_scope(
    proxy: httpx.Client, hourpass: ProxiedHourpass, model: Model
) -> None:
    headers = bearer(hourpass.token(GALAHAD))
    for path in ("/models", "/models/", "/models?x=1", "/modelsx", "/v1/models", "/predict"):
        assert proxy.get(path, headers=headers).status_code == 200, path
    assert len(model.seen) == 6
