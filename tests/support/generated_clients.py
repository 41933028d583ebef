"""Compiles a generated client and lets its program call a real service."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx

from app.settings import ROOT
from tests.support.processes import environment

INSTALLED = ROOT / ".venv/clients"
PROGRAMS = ROOT / "tests/clients/programs"
TIMEOUT_SECONDS = 300
PASSWORD = "to the round table"
# What each program does, in this order. A program prints the name of an operation that succeeded.
CALLS = [
    "issueToken",
    "readOwnProfile",
    "verifyToken",
    "createUser",
    "forcePasswordReset",
    "createInvitation",
    "listUsers",
    "listUsers",
    "readUser",
    "changeUser",
    "changeOwnProfile",
    "createOwnApiKey",
    "listOwnApiKeys",
    "rotateOwnApiKey",
    "revokeOwnApiKey",
    "changeOwnApiKey",
    "changeApiKeyOfUser",
    "createGroup",
    "addMemberToGroup",
    "listMembersOfGroup",
    "removeMemberFromGroup",
    "changeGroup",
    "changeWebhook",
]
SCHEMA_CALLS = [
    "issueToken",
    "readOwnProfile",
    "changeUser",
    "changeOwnProfile",
    "changeOwnApiKey",
    "changeApiKeyOfUser",
    "changeGroup",
    "changeWebhook",
]


class Company:
    """An administrator, who calls, a user, an API key of each, a group and a webhook. Each differs
    in every member from one that was made with the defaults."""

    def __init__(self, url: str, arthur: httpx.Client, number: int) -> None:
        self._arthur = arthur
        self._name = f"lady{number}"
        self._group = f"table{number}"
        caller = self._create_user(self._name, "predict", "train")
        user = self._create_user(f"page{number}", "audit")
        different = {"is_enabled": False, "email_verified": True}
        self._arthur.patch(f"/users/{user}", json=different).raise_for_status()
        own_key, key = self._create_key(caller, "predict"), self._create_key(user, "audit")
        self._create("/groups", {"name": self._group, "scopes": ["predict:fraud-*"]})
        webhook = {"url": "https://hooks.camelot.example", "types": ["user.deleted"]}
        self._webhook = f"/webhooks/{self._create('/webhooks', webhook)}"
        self._variables = {
            "HOURPASS_URL": url,
            "NAME": self._name,
            "PASSWORD": PASSWORD,
            "USER_ID": str(user),
            "OWN_KEY_ID": own_key,
            "USER_KEY_ID": key,
            "GROUP": self._group,
            "WEBHOOK_ID": self._webhook.rpartition("/")[2],
        }
        self._changes: dict[str, dict[str, object]] = {
            f"/users/{user}": {"is_enabled": True},
            f"/users/{caller}": {"email": f"{self._name}@new.example"},
            f"/users/{caller}/api-keys/{own_key}": {"name": "changed"},
            f"/users/{user}/api-keys/{key}": {"label": "changed"},
            self._webhook: {"is_enabled": False},
        }

    def _create_user(self, name: str, *scopes: str) -> int:
        user = {"username": name, "password": PASSWORD, "email": f"{name}@camelot.example"}
        user_id: int = self._create("/users", {**user, "is_admin": True, "scopes": scopes})
        return user_id

    def _create_key(self, user_id: int, scope: str) -> str:
        key = {"name": "key", "label": "label", "scopes": [scope], "networks": ["192.0.2.0/24"]}
        path = f"/users/{user_id}/api-keys"
        key_id: str = self._create(path, {**key, "expires_in_days": 30})
        return key_id

    def _create(self, path: str, body: dict[str, Any]) -> Any:
        return self._arthur.post(path, json=body).raise_for_status().json()["id"]

    def _read(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self._arthur.get(path).raise_for_status().json()
        return found

    def check(self, *program: str | Path, directory: Path, calls: list[str], **env: str) -> None:
        """The program makes the calls, and changes only what it is told to change."""
        before = {path: self._read(path) for path in self._changes}
        group = self._read(f"/groups/{self._group}")
        output = run(*program, directory=directory, **self._variables, **env)
        assert output.split() == calls
        for path, change in self._changes.items():
            assert self._read(path) == {**before[path], **change}
        self._arthur.delete(self._webhook).raise_for_status()  # there can be few
        name = f"{self._group}-changed"
        assert self._read(f"/groups/{name}") == {**group, "name": name}


def check_python(company: Company, directory: Path, program: str, *options: str) -> None:
    """The options are mypy's."""
    shutil.copy(PROGRAMS / program, directory)
    interpreter = INSTALLED / "bin/python"
    cache = INSTALLED / "mypy-cache" / Path(program).stem
    mypy = (ROOT / ".venv/bin/mypy", "--python-executable", interpreter, "--cache-dir", cache)
    run(*mypy, *options, "hourpass_client", program, directory=directory)
    company.check(interpreter, "-W", "error", program, directory=directory, calls=CALLS)


def check_typescript(
    company: Company, directory: Path, program: str, calls: list[str] = CALLS
) -> None:
    for name in ("expected.ts", f"{program}.ts"):
        shutil.copy(PROGRAMS / name, directory)
    sources = [f"{program}.ts", *directory.glob("hourpass_client/**/*.ts")]
    tsconfig = {**TYPESCRIPT, "files": [str(source) for source in sources]}
    directory.joinpath("tsconfig.json").write_text(json.dumps(tsconfig))
    run("node_modules/.bin/tsc", "-p", ".", directory=directory)
    company.check("node", f"built/{program}.js", directory=directory, calls=calls)


TYPESCRIPT = {
    "compilerOptions": {
        "strict": True,
        "module": "nodenext",
        "moduleResolution": "nodenext",
        "target": "es2023",
        "lib": ["es2023", "dom", "dom.iterable"],
        "types": ["node"],
        "skipLibCheck": True,
        "outDir": "built",
    }
}


def run(*command: str | Path, directory: Path, **variables: str) -> str:
    """The output of a program, which must succeed."""
    settings = environment(**variables)
    settings["PATH"] = os.pathsep.join([f"{INSTALLED}/bin", settings["PATH"]])
    process = subprocess.run(
        command,
        cwd=directory,
        env=settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout
