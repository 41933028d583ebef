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
]
SCHEMA_CALLS = ["issueToken", "readOwnProfile", "changeUser", "changeOwnProfile"]


class Company:
    """An administrator, who calls, and a user in every member unlike one who has just
    registered."""

    def __init__(self, url: str, arthur: httpx.Client, number: int) -> None:
        self._url = url
        self._arthur = arthur
        self._name = f"lady{number}"
        self._caller = self._create(self._name, ["predict", "train"])
        self._user = self._create(f"page{number}", ["audit"])
        different = {"is_enabled": False, "email_verified": True}
        self._arthur.patch(f"/users/{self._user}", json=different).raise_for_status()

    def _create(self, name: str, scopes: list[str]) -> int:
        user = {"username": name, "password": PASSWORD, "email": f"{name}@camelot.example"}
        body = {**user, "is_admin": True, "scopes": scopes}
        user_id: int = self._arthur.post("/users", json=body).raise_for_status().json()["id"]
        return user_id

    def _read(self, user_id: int) -> dict[str, Any]:
        user: dict[str, Any] = self._arthur.get(f"/users/{user_id}").raise_for_status().json()
        return user

    def check(self, *program: str | Path, directory: Path, calls: list[str], **env: str) -> None:
        """The program makes the calls, and changes only what it is told to change."""
        caller, user = self._read(self._caller), self._read(self._user)
        variables = {
            "HOURPASS_URL": self._url,
            "NAME": self._name,
            "PASSWORD": PASSWORD,
            "USER_ID": str(self._user),
        }
        assert run(*program, directory=directory, **variables, **env).split() == calls
        assert self._read(self._user) == {**user, "is_enabled": True}
        assert self._read(self._caller) == {**caller, "email": f"{self._name}@new.example"}


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
