"""Runs PostgreSQL's programs pg_dump and pg_restore."""

import getpass
import os
import re
import shutil
import subprocess
import tempfile
from typing import BinaryIO
from urllib.parse import parse_qsl

from app.configuration.types import home
from app.database import postgres_url
from app.operations.backup.errors import BackupError

DUMP_MAGIC = b"PGDMP"

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
# libpq's environment variables of options in the URL. Passwords are never arguments: those are
# visible to all users of the machine.
_VARIABLES = {
    "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "gssencmode": "PGGSSENCMODE",
    "channel_binding": "PGCHANNELBINDING",
}
_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")
_DUMP = ("--format=custom", "--no-owner", "--no-privileges", "--no-password")
_RESTORE = ("--single-transaction", "--no-owner", "--no-privileges", "--no-password")
# In the list of entries: the schema itself, which exists at the destination.
_SCHEMA_ENTRY = re.compile(r"^\d+; \d+ \d+ (SCHEMA|COMMENT|ACL) - (SCHEMA )?\S+ ")
_NAMESPACE = re.compile(r"^\d+; \d+ \d+ TABLE (\S+) users ", re.MULTILINE)
_MAX_LINES, _MAX_LINE_LENGTH = 5, 300


def start_dump(url: str, schema: str, server_version: int) -> subprocess.Popen[bytes]:
    """Start pg_dump, whose `stdout` is to be read. Then call finish_dump().

    Raises BackupError if it is missing or older than the server.
    """
    parsed = postgres_url.parse(url)
    program = shutil.which("pg_dump")
    if program is None:
        raise BackupError(
            "pg_dump was not found. Install PostgreSQL's client programs, or run this on a host "
            f"that has them:\n\n    pg_dump {' '.join(_DUMP[:-1])} --schema={schema} --file=FILE "
            f"--dbname={parsed.description}"
        )
    found = _major_version(program)
    if found < server_version:
        raise BackupError(
            f"{program} has version {found}, and the server {server_version}. Install the client "
            f"programs of PostgreSQL {server_version} or newer."
        )
    return subprocess.Popen(  # noqa: S603 - a program in PATH, and no shell
        [program, *_DUMP, f"--schema={_as_pattern(schema)}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(url),
    )


def finish_dump(process: subprocess.Popen[bytes]) -> None:
    """Raises BackupError if it failed."""
    _, errors = process.communicate()
    if process.returncode:
        raise _failure("pg_dump", process.returncode, errors)


def list_entries(backup: BinaryIO) -> str:
    """The entries of a dump. Raises BackupError if pg_restore is missing or cannot read it."""
    return _run(backup, "--list").decode(errors="replace")


def schema_of(entries: str) -> str | None:
    """The schema that has our tables."""
    found = _NAMESPACE.search(entries)
    return found[1] if found else None


def read_rows(backup: BinaryIO, table: str) -> list[dict[str, str]]:
    """The rows of a small table, from the file itself. Values are as in PostgreSQL's COPY."""
    text = _run(backup, "--data-only", f"--table={table}", "--file=-").decode(errors="replace")
    head = re.search(r"^COPY \S+ \(([^)]*)\) FROM stdin;\n", text, re.MULTILINE)
    if head is None:
        return []
    columns = [name.strip().strip('"') for name in head[1].split(",")]
    lines = text[head.end() :].partition("\n\\.\n")[0].splitlines()
    return [dict(zip(columns, line.split("\t"), strict=True)) for line in lines if line != "\\."]


def restore(url: str, backup: BinaryIO, entries: str) -> None:
    """Restore these entries of a dump into its schema, which exists, in one transaction. Raises
    BackupError."""
    variables = environment(url)
    database = variables.get("PGDATABASE") or variables.get("PGUSER") or getpass.getuser()
    with tempfile.NamedTemporaryFile("w", suffix=".list") as file:
        file.write(_without_schema(entries))
        file.flush()
        arguments = (*_RESTORE, f"--use-list={file.name}", f"--dbname={database}")
        _run(backup, *arguments, variables=variables)


def _without_schema(entries: str) -> str:
    lines = entries.splitlines(keepends=True)
    return "".join(line for line in lines if not _SCHEMA_ENTRY.match(line))


def environment(url: str) -> dict[str, str]:
    """The environment with which a program connects to this URL."""
    parsed = postgres_url.parse(url)
    given = dict(parse_qsl(url.partition("?")[2]))
    variables = dict(os.environ)  # asyncpg reads PGHOST and the others too
    for argument, name in (
        ("user", "PGUSER"),
        ("password", "PGPASSWORD"),
        ("passfile", "PGPASSFILE"),
        ("database", "PGDATABASE"),
    ):
        if value := parsed.arguments.get(argument):
            variables[name] = value
    if hosts := [host for host in parsed.hosts if host.name]:
        variables["PGHOST"] = ",".join(str(host.name) for host in hosts)
        variables["PGPORT"] = ",".join(str(host.port or "") for host in hosts)
    postgres_url.translate_ssl(given)
    for option, name in _VARIABLES.items():
        if value := given.get(option):
            is_path = option in _FILES and value != "system"
            variables[name] = str(home() / value) if is_path else value
    if given.get("sslrootcert") == "system":
        variables["PGSSLMODE"] = "verify-full"
    variables["PGTARGETSESSIONATTRS"] = str(parsed.arguments["target_session_attrs"])
    variables["PGAPPNAME"] = "hourpass backup"
    variables["PGCONNECT_TIMEOUT"] = str(max(2, round(parsed.connect_seconds)))
    if options := parsed.server_settings.get("options"):
        variables["PGOPTIONS"] = options
    return variables


def _run(backup: BinaryIO, *arguments: str, variables: dict[str, str] | None = None) -> bytes:
    program = shutil.which("pg_restore")
    if program is None:
        raise BackupError("pg_restore was not found. Install PostgreSQL's client programs.")
    backup.flush()
    os.lseek(backup.fileno(), 0, os.SEEK_SET)  # seek() may only move within Python's buffer
    done = subprocess.run(  # noqa: S603 - a program in PATH, and no shell
        [program, *arguments],
        stdin=backup,
        capture_output=True,
        env=variables,
        check=False,
    )
    if done.returncode:
        raise _failure("pg_restore", done.returncode, done.stderr)
    return done.stdout


def _failure(program: str, status: int, errors: bytes) -> BackupError:
    """With the lines that say what is wrong. Others may quote rows, which have password hashes."""
    lines = [line for line in errors.decode(errors="replace").splitlines() if "error:" in line]
    shown = "\n".join(line[:_MAX_LINE_LENGTH] for line in lines[:_MAX_LINES])
    return BackupError(f"{program} failed with status {status}. Nothing was changed.\n{shown}")


def _major_version(program: str) -> int:
    done = subprocess.run(  # noqa: S603 - a program in PATH, and no shell
        [program, "--version"], capture_output=True, text=True, check=False
    )
    found = _VERSION.search(done.stdout)
    if found is None:
        raise BackupError(f"{program} does not tell its version.")
    return int(found[1])


def _as_pattern(name: str) -> str:
    """In double quotes, letters keep their case and there are no wildcards."""
    quoted = name.replace('"', '""')
    return f'"{quoted}"'
