"""What `guard.protect(app)` does to an app of FastAPI or Starlette besides the middleware."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_DOCS = ("openapi_url", "docs_url", "redoc_url", "swagger_ui_oauth2_redirect_url")

_log = logging.getLogger("hourpass.guard")


def put_inside_of_cors(app: Starlette) -> None:
    """The outermost middleware stands first, and browsers send a preflight without a token."""
    middleware = app.user_middleware
    outermost_before: Any = middleware[1].cls if len(middleware) > 1 else None
    if outermost_before is CORSMiddleware:
        middleware[:2] = reversed(middleware[:2])


def describe(app: Any, guard: Any, is_public: Callable[[str], bool]) -> None:
    """Say in the app's OpenAPI which operations need a token. Its docs show a lock and a working
    Authorize button."""
    openapi = app.openapi
    needed: list[dict[str, list[str]]] = [{guard.scheme_name: []}]

    def openapi_with_security() -> dict[str, Any]:
        schema: dict[str, Any] = openapi()
        scheme = guard.model.model_dump(by_alias=True, exclude_none=True, mode="json")
        schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes.setdefault(guard.scheme_name, scheme)
        for path, operations in schema.get("paths", {}).items():
            for method in operations.keys() & _METHODS:
                operations[method].setdefault("security", [] if is_public(path) else needed)
        return schema

    app.openapi = openapi_with_security


def warn_of_open_routes(app: Any, guard: Any) -> None:
    """`FastAPI(dependencies=[Depends(guard)])` covers only the routes that FastAPI made."""
    if not isinstance(app, Starlette):
        return
    dependencies = getattr(app.router, "dependencies", ())
    is_app_wide = any(depends.dependency is guard for depends in dependencies)
    is_protected = any(middleware.cls == guard.middleware for middleware in app.user_middleware)
    paths = list(_open_paths(app))
    if is_app_wide and paths and not is_protected:
        _log.warning("Depends(guard) does not protect %s; use guard.protect(app)", ", ".join(paths))


def _open_paths(app: Any) -> Iterator[str]:
    docs = {getattr(app, name, None) for name in _DOCS}
    return (path for path in _paths_of_others(app.routes) if path not in docs)


def _paths_of_others(routes: Iterable[Any]) -> Iterator[str]:
    """Of mounts and of routes that Starlette made."""
    for route in routes:
        included = getattr(route, "original_router", None)  # how FastAPI keeps included routers
        if included is not None:
            yield from _paths_of_others(included.routes)
        elif not hasattr(route, "dependant"):
            yield getattr(route, "path", "") or "/"
