"""The receiver of docs/webhooks.md accepts what the service sends, once, and nothing else."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.settings import ROOT
from tests.support.documentation import block
from tests.support.https_receiver import Receiver
from tests.support.markers import on_sqlite
from tests.support.servers import served
from tests.support.users import LANCELOT, register
from tests.support.webhooks import WebhookCalls, send_due

PAGE = ROOT / "docs/webhooks.md"


def documented(directory: Path, secret: str) -> ModuleType:
    code = block(PAGE, "python", "Webhook(SECRET)")
    path = directory / "documented_receiver.py"
    (example,) = [line for line in code.splitlines() if line.startswith("SECRET = ")]
    path.write_text(code.replace(example, f'SECRET = "{secret}"'))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@on_sqlite
async def test_the_documented_receiver(
    app: FastAPI,
    client: AsyncClient,
    receiver: Receiver,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = WebhookCalls(client)
    made = await calls.create(receiver, "user.created")
    module = documented(tmp_path, made["secret"])
    with served(module.app) as url:
        await calls.call("PATCH", "/1", url=f"{url}/hourpass")
        tested = await calls.call("POST", "/1/test")
        assert tested == {"is_delivered": True, "status": 204, "reason": None}
        await register(client, LANCELOT)
        await send_due(app)
        async with AsyncClient(base_url=url) as stranger:
            forged = await stranger.post("/hourpass", json={"type": "user.deleted"})
            assert forged.status_code == 401
    assert await calls.deliveries(1) == []
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("user.", "webhook."))
    ]
    assert lines == ["webhook.test {}", "user.created {'user_id': 2, 'username': 'lancelot'}"]
    assert len(module.handled) == 2
