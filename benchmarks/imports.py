"""Measures the time and memory of an import of 100,000 users.

    python -m benchmarks.imports [--users N] [--source keycloak|csv]

The script writes a file in Keycloak's format or as CSV. The import runs as a command in its own
process, first into an empty database, then again when all users exist.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.servers import postgres

HASH = "$argon2id$v=19$m=7168,t=5,p=1$Y2FtZWxvdGNhbWVsb3Q$"
CREDENTIAL = {
    "type": "password",
    "secretData": json.dumps({"value": "A" * 43 + "=", "salt": "A" * 22 + "=="}),
    "credentialData": json.dumps(
        {
            "hashIterations": 5,
            "algorithm": "argon2",
            "additionalParameters": {
                "hashLength": ["32"],
                "memory": ["7168"],
                "type": ["id"],
                "version": ["1.3"],
                "parallelism": ["1"],
            },
        }
    ),
}


def write_keycloak(path: Path, users: int) -> None:
    with path.open("w") as file:
        file.write('{"realm": "camelot", "users": [\n')
        for number in range(users):
            user = {
                "username": f"user{number}",
                "email": f"user{number}@camelot.example",
                "emailVerified": True,
                "enabled": True,
                "createdTimestamp": 1757317498123,
                "credentials": [CREDENTIAL],
                "realmRoles": ["default-roles-camelot", "trainer"],
            }
            file.write((",\n" if number else "") + json.dumps(user))
        file.write("]}\n")


def write_csv(path: Path, users: int) -> None:
    with path.open("w") as file:
        file.write("username,email,email_verified,password_hash,scopes\n")
        for number in range(users):
            name = f"user{number}"
            made = f'"{HASH}{"A" * 43}"'
            file.write(f"{name},{name}@camelot.example,t,{made},predict\n")


def run(*arguments: str, database_url: str) -> tuple[float, float, int]:
    """Seconds, seconds of CPU time, and the largest memory of all commands until now in MiB."""
    environment = os.environ | {"DATABASE_URL": database_url, "ENV_FILE": "/dev/null"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    command = [sys.executable, "-m", "hourpass", *arguments]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, after.ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--source", choices=("keycloak", "csv"), help="default: both")
    options = parser.parse_args()
    users = options.users
    with tempfile.TemporaryDirectory() as folder:
        exports = {"keycloak": Path(folder, "realm.json"), "csv": Path(folder, "users.csv")}
        write_keycloak(exports["keycloak"], users)
        write_csv(exports["csv"], users)
        with postgres(Path(folder)) as server:
            for source, file in exports.items():
                if options.source not in (None, source):
                    continue
                measure(source, file, users, f"sqlite:///{folder}/{source}.db")
                server.psql(f"CREATE DATABASE {source}")
                measure(source, file, users, server.get_uri(source))


def measure(source: str, file: Path, users: int, database_url: str) -> None:
    run("migrate", database_url=database_url)
    import_ = ("import", str(file), "--from", source, "--scope", "trainer=train")
    size = file.stat().st_size / 2**20
    print(f"{source}, {users:,} users, {size:.0f} MiB, {database_url.partition(':')[0]}:")
    for label, arguments in (("dry run", ("--dry-run",)), ("import", ()), ("again", ())):
        seconds, cpu, memory = run(*import_, *arguments, database_url=database_url)
        rate = users / seconds
        print(f"  {label:8} {seconds:6.1f} s, CPU {cpu:6.1f} s, {rate:7,.0f} users/s, {memory} MiB")


if __name__ == "__main__":
    main()
