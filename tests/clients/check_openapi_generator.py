"""Clients of OpenAPI Generator. Kotlin's is read; the others call the service."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.generated_clients import (
    CALLS,
    INSTALLED,
    PROGRAMS,
    Company,
    check_python,
    check_typescript,
    run,
)
from tests.support.openapi import OPERATIONS, SCHEMAS

DEBIAN_JARS = ["httpmime.jar", "geronimo-annotation-1.3-spec.jar"]
DEBIAN_GO = "/usr/share/gocode"


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


def test_python(company: Company, openapi_generator: Path) -> None:
    """The client comes with its settings for mypy, which are not all the strict ones."""
    options = ("--config-file", "pyproject.toml")
    check_python(company, openapi_generator / "python", "openapi_generator.py", *options)


def test_java(company: Company, openapi_generator: Path, tmp_path: Path) -> None:
    jars = [generator_jar(), *(Path("/usr/share/java", name) for name in DEBIAN_JARS)]
    path = os.pathsep.join(str(jar) for jar in [*jars, tmp_path])
    sources = openapi_generator.glob("java/src/main/**/*.java")
    lint = ("-encoding", "UTF-8", "-proc:none", "-Xlint:all,-path,-deprecation", "-Werror")
    program = PROGRAMS / "OpenapiGenerator.java"
    run("javac", *lint, "-cp", path, "-d", ".", program, *sources, directory=tmp_path)
    java = ("java", "-cp", path, "OpenapiGenerator")
    company.check(*java, directory=tmp_path, calls=CALLS)


def test_go(company: Company, openapi_generator: Path, tmp_path: Path) -> None:
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


def test_ruby(company: Company, openapi_generator: Path) -> None:
    ruby = ("ruby", "-I", "lib", PROGRAMS / "openapi_generator.rb")
    company.check(*ruby, directory=openapi_generator / "ruby", calls=CALLS)


def test_kotlin(openapi_generator: Path) -> None:
    """The client is read, not compiled: no package has the libraries that it needs. An optional
    member of a change is null until it is set, and Moshi omits what is null."""
    models = openapi_generator / "kotlin/src/main/kotlin/org/openapitools/client/models"
    for name in CHANGES:
        text = models.joinpath(f"{name}.kt").read_text()
        members = re.findall(r'@Json\(name = "(\w+)"\)\s+val (.*?),?\n', text)
        assert {name for name, _ in members} == set(SCHEMAS[name]["properties"])
        for member, declared in members:
            if member not in SCHEMAS[name].get("required", ()):
                assert declared.endswith("? = null"), declared


CHANGES = {
    content["schema"]["$ref"].rpartition("/")[2]
    for call, operation in OPERATIONS.items()
    if call.startswith("PATCH ")
    for content in operation["requestBody"]["content"].values()
}


def test_typescript(company: Company, openapi_generator: Path, node_project: Path) -> None:
    shutil.copytree(openapi_generator / "typescript-fetch", node_project / "hourpass_client")
    check_typescript(company, node_project, "openapi_generator")
