"""A user that cannot be imported is left out and named. Nothing is computed or written for it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import func, select

from app.audit.models import Entry
from app.context import RequestContext
from app.operations.imports import service
from app.operations.imports.columns import JsonLinesReader
from app.operations.imports.records import Options
from app.operations.imports.service import Importer
from app.settings import Settings
from tests.imports.conftest import Import, users_of
from tests.support.markers import on_sqlite
from tests.support.users import GALAHAD, LANCELOT, register

BCRYPT = "$2b$04$......................4P3xaHCfhEJVtJgGNGy9T4aOyGqWu1u"
BIG = 2**30


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def summary_of(output: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(output.splitlines()[-1])
    return summary


LEFT_OUT: dict[str, tuple[dict[str, Any], str, str]] = {
    "no name": ({"scopes": "a"}, "username", "no username and no e-mail"),
    "long name": ({"username": "x" * 65}, "username", "at most 64 characters"),
    "long once normalized": ({"username": "\ufdfa" * 10}, "username", "after normalization"),
    "control character": ({"username": "a\x1b[31mb"}, "username", "control or invisible"),
    "NUL": ({"username": "a\0b"}, "username", "control or invisible"),
    "space at the end": ({"username": "a "}, "username", "begin or end with a space"),
    "name of a service account": ({"username": "SVC-batch"}, "username", "begin with svc-"),
    "number as name": ({"username": 7}, "record", "username: A value is not a text"),
    "list as name": ({"username": ["a"]}, "record", "username: A value is not a text"),
    "address": ({"username": "a", "email": "nobody"}, "email", "Must be an e-mail address"),
    "flag": ({"username": "a", "is_enabled": "perhaps"}, "record", "neither true nor false"),
    "date": ({"username": "a", "created_at": "yesterday"}, "record", "is not a date"),
    "date beyond all": ({"username": "a", "created_at": 10**30}, "record", "is not a date"),
    "scope": ({"username": "a", "scopes": ['a"b']}, "scopes", "visible ASCII"),
    "reserved scope": (
        {"username": "a", "scopes": "offline_access"},
        "scopes",
        "cannot be granted",
    ),
    "long scopes": (
        {"username": "a", "scopes": [f"{n}:{'x' * 100}" for n in range(50)]},
        "scopes",
        "at most 4,000 characters",
    ),
    "long roles": ({"username": "a", "roles": ["x" * 70_000]}, "record", "65,536 characters"),
    "digest": ({"username": "a", "password_hash": "5f4dcc3b5aa765d61d8327de"}, "hash", "import.md"),
    "damaged": ({"username": "a", "password_hash": "$2b$12$short"}, "hash", "damaged"),
    "a digest of one byte": (
        {"username": "a", "password_hash": "pbkdf2_sha256$1000$a$YQ=="},
        "hash",
        "shorter than 16 bytes",
    ),
    "Argon2 of one byte": (
        {"username": "a", "password_hash": "$argon2id$v=19$m=8,t=1,p=1$YWFhYWFhYWE$YQ"},
        "hash",
        "shorter than 16 bytes",
    ),
    "NUL in a salt": (
        {"username": "a", "password_hash": "pbkdf2_sha256$1$a\0b$AAAA"},
        "hash",
        "import.md",
    ),
    "longer than the column": (
        {"username": "a", "password_hash": f"pbkdf2_sha256$1${'a' * 250}$AAAA"},
        "hash",
        "import.md",
    ),
    "a billion rounds": (
        {"username": "a", "password_hash": f"pbkdf2_sha256$1000000000$a${'A' * 43}="},
        "cost",
        "seconds, and at most 2",
    ),
    "a digest of a thousand blocks": (
        {"username": "a", "password_hash": f"$pbkdf2-sha256$9000000$aa${'A' * 200}"},
        "cost",
        "seconds, and at most 2",
    ),
    "bcrypt 31": ({"username": "a", "password_hash": f"$2b$31${'a' * 53}"}, "cost", "at most 2"),
    "Argon2 in 64 GiB": (
        {"username": "a", "password_hash": f"$argon2id$v=19$m={BIG >> 4},t=1,p=1$YWFhYWFhYWE$YQ"},
        "cost",
        "65,536 MiB of memory",
    ),
    "Argon2 with a billion passes": (
        {"username": "a", "password_hash": f"$argon2i$v=19$m=8,t={BIG},p=1$YWFhYWFhYWE$YQ"},
        "cost",
        "at most 2",
    ),
    "scrypt in 16 GiB": (
        {"username": "a", "password_hash": "scrypt$16777216$a$8$1$YWFh"},
        "cost",
        "MiB of memory",
    ),
    "scrypt of passlib": (
        {"username": "a", "password_hash": "$scrypt$ln=31,r=8,p=1$YWFh$YWFh"},
        "cost",
        "MiB of memory",
    ),
    "scrypt that takes hours": (
        {"username": "a", "password_hash": "scrypt$1024$a$8$1000000$YWFh"},
        "cost",
        "MiB of memory",
    ),
    "secret": ({"username": "a", "totp_secret": "no base32!"}, "second_factor", "base32"),
    "short secret": (
        {"username": "a", "totp_secret": "JBSWY3DPEHPK3PXP"},
        "second_factor",
        "16 to",
    ),
}


@on_sqlite
async def test_a_user_that_breaks_a_rule_is_left_out_with_the_reason(
    app: FastAPI, import_users: Import, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    file = write(tmp_path / "users.jsonl", *(record for record, _, _ in LEFT_OUT.values()))
    result = await import_users(file, "--from", "jsonl", "--json")
    *lines, summary = map(json.loads, result.stdout.splitlines())
    assert [line["record"] for line in lines] == list(range(1, len(LEFT_OUT) + 1))
    for line, (name, (record, reason, detail)) in zip(lines, LEFT_OUT.items(), strict=True):
        with subtests.test(name):
            assert line["reason"] == reason
            assert detail in line["detail"]
            assert str(record.get("password_hash", "$2b")) not in json.dumps(line)
    assert sum(summary["left_out"].values()) == len(LEFT_OUT)
    assert await users_of(app) == {}
    assert result.exit_code == 1


async def test_the_first_of_two_equal_normalized_names_is_imported(
    client: AsyncClient, app: FastAPI, import_users: Import, tmp_path: Path
) -> None:
    await register(client, GALAHAD)
    file = write(
        tmp_path / "users.jsonl",
        {"username": "\uff2cancelot", "password_hash": BCRYPT},
        {"username": "LANCELOT"},
        {"username": "GALAHAD", "is_admin": True},
    )
    result = await import_users(file, "--from", "jsonl", "--json")
    summary = summary_of(result.stdout)
    assert (summary["imported"], summary["existing"]) == (1, 1)
    assert summary["left_out"] == {"duplicate": 1}
    users = await users_of(app)
    assert list(users) == ["galahad", "\uff2cancelot"]
    assert users["\uff2cancelot"].username_folded == "lancelot"
    assert not users["galahad"].is_admin


async def test_a_second_run_adds_nothing_and_changes_nothing(
    app: FastAPI, import_users: Import, tmp_path: Path
) -> None:
    records = [{"username": f"knight{n}", "password_hash": BCRYPT} for n in range(3)]
    file = write(tmp_path / "users.jsonl", *records)
    assert (await import_users(file, "--from", "jsonl")).exit_code == 0
    before = [(user.id, user.password_hash) for user in (await users_of(app)).values()]
    write(file, *(record | {"is_admin": True} for record in records), LANCELOT)
    result = await import_users(file, "--from", "jsonl", "--json")
    summary = summary_of(result.stdout)
    assert (summary["imported"], summary["existing"]) == (1, 3)
    after = [(user.id, user.password_hash) for user in (await users_of(app)).values()]
    assert after[:-1] == before
    assert not any(user.is_admin for user in (await users_of(app)).values())


async def test_a_user_who_registers_during_the_import_stays_unchanged(
    client: AsyncClient,
    app: FastAPI,
    import_users: Import,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await register(client, LANCELOT)

    async def find_none(*_: object) -> set[str]:
        return set()

    monkeypatch.setattr(service, "_find_existing", find_none)
    file = write(tmp_path / "users.jsonl", {"username": "Lancelot"}, {"username": "kay"})
    result = await import_users(file, "--from", "jsonl", "--json")
    summary = summary_of(result.stdout)
    assert (summary["imported"], summary["existing"]) == (1, 1)
    assert list(await users_of(app)) == ["lancelot", "kay"]


@on_sqlite
async def test_a_dry_run_changes_nothing_and_shows_the_costs(
    app: FastAPI, import_users: Import, tmp_path: Path
) -> None:
    before = await number_of_entries(app)
    file = write(tmp_path / "users.jsonl", {"username": "kay", "password_hash": BCRYPT})
    result = await import_users(file, "--from", "jsonl", "--dry-run")
    assert result.exit_code == 0
    assert "Nothing was changed" in result.stdout
    assert "bcrypt" in result.stdout
    assert "Up to 2 seconds are allowed" in result.stdout
    assert BCRYPT not in result.output
    assert await users_of(app) == {}
    assert await number_of_entries(app) == before


@on_sqlite
async def test_the_maximum_cost_of_a_hash_is_an_option(
    app: FastAPI, import_users: Import, tmp_path: Path
) -> None:
    costly = f"$2b$12${BCRYPT[7:]}"
    file = write(tmp_path / "users.jsonl", {"username": "kay", "password_hash": costly})
    bound = ("--max-hash-seconds", "0.005")
    assert (await import_users(file, "--from", "jsonl", *bound)).exit_code == 1
    assert await users_of(app) == {}
    assert (await import_users(file, "--from", "jsonl")).exit_code == 0
    assert list(await users_of(app)) == ["kay"]


async def number_of_entries(app: FastAPI) -> int:
    async with app.state.database.session() as session:
        return await session.scalar(select(func.count()).select_from(Entry)) or 0


@on_sqlite
async def test_the_audit_log_has_each_user_and_the_run(
    app: FastAPI, import_users: Import, tmp_path: Path
) -> None:
    file = write(
        tmp_path / "users.jsonl",
        {"username": "kay", "scopes": "predict admin"},
        {"username": "gawain"},
        {"username": "svc-mordred"},
    )
    await import_users(file, "--from", "jsonl")
    async with app.state.database.session() as session:
        query = select(Entry).where(Entry.action.in_(("user.import", "import.run")))
        *users, run = (await session.scalars(query.order_by(Entry.id))).all()
    ids = [user.id for user in (await users_of(app)).values()]
    assert [entry.subject_id for entry in users] == ids
    first, second = (json.loads(entry.details) for entry in users)
    assert first == {**second, "to": "admin predict"}
    counted = {"imported": "2", "existing": "0", "left_out": "1"}
    assert json.loads(run.details) == {**second, **counted}
    assert second["source"] == "jsonl"


async def test_an_interrupted_import_continues_when_it_is_run_again(
    app: FastAPI,
    context: RequestContext,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(JsonLinesReader, "batch", 2)
    file = write(tmp_path / "users.jsonl", *({"username": f"knight{n}"} for n in range(5)))
    services = app.state.services
    importer = Importer(services.passwords, services.events, settings, Options())
    batches = 0

    def interrupt(_number: int) -> None:
        nonlocal batches
        batches += 1
        if batches == 2:
            raise KeyboardInterrupt

    for on_progress in (interrupt, lambda _: None):
        try:
            report = await importer.run(
                context,
                JsonLinesReader(file, Options()),
                source="jsonl",
                dry_run=False,
                on_left_out=lambda _: None,
                on_progress=on_progress,
            )
        except KeyboardInterrupt:
            assert len(await users_of(app)) == 4
    assert (report.imported, report.existing) == (1, 4)
    assert list(await users_of(app)) == [f"knight{n}" for n in range(5)]


@on_sqlite
async def test_a_pipe_is_refused(app: FastAPI, import_users: Import, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = await import_users(tmp_path / "pipe", "--from", "jsonl")
    assert result.exit_code == 1
    assert "is not a regular file" in result.stderr
    assert await users_of(app) == {}


@on_sqlite
async def test_names_cannot_control_the_terminal(
    app: FastAPI, import_users: Import, tmp_path: Path
) -> None:
    names = ("\x1b]0;owned\x07", "\x9b31m", "a\u202eb", "x" * 500)
    file = write(tmp_path / "users.jsonl", *({"username": name} for name in names))
    result = await import_users(file, "--from", "jsonl")
    assert len(result.stderr.splitlines()) == len(names)
    assert all(" " <= character <= "~" or character in "\n…" for character in result.stderr)
    assert max(map(len, result.stderr.splitlines())) < 250
    assert await users_of(app) == {}


@on_sqlite
async def test_options_are_checked_before_the_file_is_read(
    app: FastAPI, import_users: Import, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    file = write(tmp_path / "users.jsonl", {"username": "kay"})
    for arguments, status, told in (
        (("--from", "jsonl", "--map", "a=b"), 2, "not COLUMN=FIELD"),
        (("--from", "jsonl", "--map", "username"), 2, "not COLUMN=FIELD"),
        (("--from", "jsonl", "--map", "a=email", "--map", "b=email"), 2, "named twice"),
        (("--from", "jsonl", "--scope", "train"), 2, "not ROLE=SCOPE"),
        (("--from", "jsonl", "--scope", 'trainer="'), 2, "visible ASCII"),
        (("--from", "jsonl", "--scope", "trainer=offline_access"), 2, "cannot be granted"),
        (("--from", "ldap"), 2, "--from"),
        (("--from", "jsonl", "--hashes", str(file)), 1, "--hashes has no meaning"),
        (
            (
                "--from",
                "firebase",
            ),
            1,
            "--secrets",
        ),
        (("--from", "firebase", "--secrets", str(file)), 1, "one line `base64_signer_key: …`"),
        (("--from", "book", "--secrets", str(file)), 1, "one line `key: …`"),
    ):
        with subtests.test(told):
            result = await import_users(file, *arguments)
            assert result.exit_code == status
            assert told in result.stderr
    assert await users_of(app) == {}


@on_sqlite
async def test_any_column_or_path_can_be_mapped(
    app: FastAPI, import_users: Import, tmp_path: Path
) -> None:
    file = write(
        tmp_path / "users.jsonl", {"login": "kay", "of": {"groups": ["a", "b"]}, "x.y": "t"}
    )
    mapped = ("login=username", "of.groups=roles", "x.y=is_enabled")
    options = [part for pair in mapped for part in ("--map", pair)]
    result = await import_users(file, "--from", "jsonl", *options, "--scope", "b=predict")
    assert result.exit_code == 0
    assert (await users_of(app))["kay"].scopes == "predict"
