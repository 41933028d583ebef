"""Clients generated from the OpenAPI document compile, pass strict type checks and work with a
real service. A change of one member leaves the others as they are.

`make test-clients` installs the generators and runs this file. An ordinary test run does not
collect it. The programs in `programs/` make the calls, one program for each client.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import ROOT
from tests.support.openapi import OPERATIONS
from tests.support.processes import environment
from tests.support.running_service import RunningService, running_service
from tests.support.users import ARTHUR, bearer

INSTALLED = ROOT / ".venv/clients"
PROGRAMS = Path(__file__).parent / "programs"
DEBIAN_JARS = ["httpmime.jar", "geronimo-annotation-1.3-spec.jar"]
DEBIAN_GO = "/usr/share/gocode"
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


# One process of pytest-xdist makes them all.
of_openapi_generator = pytest.mark.xdist_group("openapi_generator")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    database = tmp_path_factory.mktemp("service") / "hourpass.db"
    issuer = "https://hourpass.example"  # Redocly warns of a document that names localhost
    with running_service(f"sqlite:///{database}", ISSUER=issuer) as service:
        yield service


@pytest.fixture(scope="module")
def document(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(httpx.get(f"{service.url}/openapi.json").text)
    return path


@pytest.fixture(scope="module")
def openapi_generator(document: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a client in each language, all made by one run of the JVM."""
    directory = tmp_path_factory.mktemp("openapi_generator")
    configs = []
    for language, options in OPENAPI_GENERATOR.items():
        config = directory / f"{language}.json"
        settings = {
            "generatorName": language,
            "inputSpec": str(document),
            "outputDir": str(directory / language),
            **options,
        }
        config.write_text(json.dumps(settings))
        configs.append(config)
    run("java", "-jar", generator_jar(), "batch", "--fail-fast", *configs, directory=directory)
    return directory


OPENAPI_GENERATOR: dict[str, dict[str, Any]] = {
    "python": {"packageName": "hourpass_client"},
    # Debian has no jackson-databind-nullable.
    "java": {"library": "native", "additionalProperties": {"openApiNullable": False}},
    "go": {"packageName": "hourpass_client"},
    "typescript-fetch": {"additionalProperties": {"importFileExtension": ".js"}},
    "ruby": {"additionalProperties": {"gemName": "hourpass_client"}},
    "kotlin": {},
}


def generator_jar() -> Path:
    (jar,) = INSTALLED.glob("lib/*/site-packages/openapi_generator_cli/openapi-generator.jar")
    return jar


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


class Company:
    """An administrator, who calls, and a user in every member unlike one who has just
    registered."""

    def __init__(self, service: RunningService, arthur: httpx.Client, number: int) -> None:
        self._url = service.url
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


numbers = count(1)


@pytest.fixture
def company(service: RunningService) -> Iterator[Company]:
    headers = bearer(service.log_in(ARTHUR))
    with httpx.Client(base_url=service.url, headers=headers) as arthur:
        yield Company(service, arthur, next(numbers))


def test_every_change_of_the_document_is_made() -> None:
    changes = {
        operation["operationId"]
        for call, operation in OPERATIONS.items()
        if call.startswith("PATCH ")
    }
    assert changes <= set(SCHEMA_CALLS)
    assert set(SCHEMA_CALLS) <= set(CALLS)


def check_python(
    company: Company, directory: Path, program: str, *, generated: tuple[str, ...]
) -> None:
    """`generated` are the options with which mypy checks what was generated."""
    shutil.copy(PROGRAMS / program, directory)
    interpreter = INSTALLED / "bin/python"
    cache = INSTALLED / "mypy-cache" / Path(program).stem
    mypy = (ROOT / ".venv/bin/mypy", "--python-executable", interpreter, "--cache-dir", cache)
    run(*mypy, *generated, "-p", "hourpass_client", directory=directory)
    run(*mypy, "--strict", "--follow-imports", "silent", program, directory=directory)
    company.check(interpreter, "-W", "error", program, directory=directory, calls=CALLS)


def test_openapi_python_client(company: Company, document: Path, tmp_path: Path) -> None:
    options = ("--path", document, "--output-path", "hourpass_client", "--meta", "none")
    tmp_path.joinpath("config.json").write_text('{"post_hooks": []}')  # they only format
    generator = (
        "openapi-python-client",
        "generate",
        "--fail-on-warning",
        "--config",
        "config.json",
    )
    run(*generator, *options, directory=tmp_path)
    check_python(company, tmp_path, "openapi_python_client.py", generated=("--strict",))


@of_openapi_generator
def test_openapi_generator_for_python(company: Company, openapi_generator: Path) -> None:
    own = ("--config-file", "pyproject.toml")  # comes with the client, and is not strict yet
    check_python(company, openapi_generator / "python", "openapi_generator.py", generated=own)


@of_openapi_generator
def test_openapi_generator_for_java(
    company: Company, openapi_generator: Path, tmp_path: Path
) -> None:
    jars = [generator_jar(), *(Path("/usr/share/java", name) for name in DEBIAN_JARS)]
    path = os.pathsep.join(str(jar) for jar in [*jars, tmp_path])
    sources = openapi_generator.glob("java/src/main/**/*.java")
    lint = ("-proc:none", "-Xlint:all,-path,-deprecation", "-Werror")
    program = PROGRAMS / "OpenapiGenerator.java"
    run("javac", *lint, "-cp", path, "-d", ".", program, *sources, directory=tmp_path)
    java = ("java", "-cp", path, "OpenapiGenerator")
    company.check(*java, directory=tmp_path, calls=CALLS)


@of_openapi_generator
def test_openapi_generator_for_go(
    company: Company, openapi_generator: Path, tmp_path: Path
) -> None:
    source = tmp_path / "src"
    shutil.copytree(openapi_generator / "go", source / "hourpass_client")
    source.joinpath("program").mkdir()
    shutil.copy(PROGRAMS / "openapi_generator.go", source / "program")
    variables = {
        "GO111MODULE": "off",
        "GOPATH": os.pathsep.join([str(tmp_path), DEBIAN_GO]),
        "GOCACHE": str(INSTALLED / "go-cache"),
    }
    run("go", "vet", "hourpass_client", "program", directory=tmp_path, **variables)
    run("go", "build", "-o", "calls", "program", directory=tmp_path, **variables)
    company.check("./calls", directory=tmp_path, calls=CALLS)


@of_openapi_generator
def test_openapi_generator_for_ruby(company: Company, openapi_generator: Path) -> None:
    ruby = ("ruby", "-I", "lib", PROGRAMS / "openapi_generator.rb")
    company.check(*ruby, directory=openapi_generator / "ruby", calls=CALLS)


@of_openapi_generator
def test_openapi_generator_for_kotlin(openapi_generator: Path) -> None:
    """By reading, since no package brings the libraries to compile it with: every member of a
    change is null until it is set, and Moshi omits what is null."""
    models = openapi_generator / "kotlin/src/main/kotlin/org/openapitools/client/models"
    for name in ("UserChange", "ProfileChange"):
        members = [
            line.strip().rstrip(",")
            for line in models.joinpath(f"{name}.kt").read_text().splitlines()
            if line.strip().startswith("val ")
        ]
        assert members
        for member in members:
            assert member.endswith("? = null") or member == "val password: kotlin.String"


@pytest.fixture
def node_project(tmp_path: Path, document: Path) -> Path:
    """A folder in which Node.js finds the packages, and the document."""
    tmp_path.joinpath("node_modules").symlink_to(INSTALLED / "node_modules")
    tmp_path.joinpath("package.json").write_text('{"type": "module"}')
    tmp_path.joinpath("tsconfig.json").write_text(json.dumps(TYPESCRIPT))
    shutil.copy(document, tmp_path)
    return tmp_path


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


@of_openapi_generator
def test_openapi_generator_for_typescript(
    company: Company, openapi_generator: Path, node_project: Path
) -> None:
    shutil.copytree(openapi_generator / "typescript-fetch", node_project / "hourpass_client")
    check_typescript(company, node_project, "openapi_generator")


def test_openapi_typescript(company: Company, node_project: Path) -> None:
    generator = ("node_modules/.bin/openapi-typescript", "openapi.json")
    run(*generator, "-o", "hourpass_client/schema.ts", directory=node_project)
    check_typescript(company, node_project, "openapi_fetch")


def test_hey_api(company: Company, node_project: Path) -> None:
    output = {"path": "hourpass_client", "module": {"extension": ".js"}}
    config = json.dumps({"input": "openapi.json", "output": output})
    node_project.joinpath("openapi-ts.config.js").write_text(f"export default {config}")
    run("node_modules/.bin/openapi-ts", "--no-log-file", directory=node_project)
    check_typescript(company, node_project, "hey_api")


def test_orval(company: Company, service: RunningService, node_project: Path) -> None:
    make_orval_client(node_project, client="fetch", baseUrl=service.url)
    check_typescript(company, node_project, "orval")


def test_orval_for_zod(company: Company, node_project: Path) -> None:
    make_orval_client(node_project, client="zod")
    check_typescript(company, node_project, "orval_zod", SCHEMA_CALLS)


def make_orval_client(project: Path, **options: str) -> None:
    output = {"target": "hourpass_client/client.ts", **options}
    config = json.dumps({"hourpass": {"input": "openapi.json", "output": output}})
    project.joinpath("orval.config.js").write_text(f"export default {config}")
    run("node_modules/.bin/orval", directory=project)


def test_redocly_has_no_warning(node_project: Path) -> None:
    for name in ("redocly.yaml", ".redocly.lint-ignore.yaml"):
        shutil.copy(PROGRAMS.parent / name, node_project)
    variables = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    lint = ("node_modules/.bin/redocly", "lint", "openapi.json")
    output = run(*lint, directory=node_project, **variables)
    assert "warning" not in output, output


def test_spectral_has_no_warning(node_project: Path) -> None:
    ruleset = PROGRAMS.parent / "spectral.yaml"
    lint = ("node_modules/.bin/spectral", "lint", "--fail-severity", "hint", "openapi.json")
    run(*lint, "--ruleset", ruleset, directory=node_project)
