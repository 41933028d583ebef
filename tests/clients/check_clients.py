"""Clients generated from the OpenAPI document compile, pass strict type checks and work with a
real service. A change of one member leaves the others as they are.

`make test-clients` installs the generators and runs this file. An ordinary test run does not
collect it. The programs in `programs/` make the calls, one program for each client.
"""

import json
import shutil
from pathlib import Path

from tests.support.generated_clients import (
    CALLS,
    PROGRAMS,
    SCHEMA_CALLS,
    Company,
    check_python,
    check_typescript,
    run,
)
from tests.support.openapi import OPERATIONS
from tests.support.running_service import RunningService


def test_every_change_of_the_document_is_made() -> None:
    changes = {
        operation["operationId"]
        for call, operation in OPERATIONS.items()
        if call.startswith("PATCH ")
    }
    assert changes <= set(SCHEMA_CALLS)
    assert set(SCHEMA_CALLS) <= set(CALLS)


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
    check_python(company, tmp_path, "openapi_python_client.py", "--strict")


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
