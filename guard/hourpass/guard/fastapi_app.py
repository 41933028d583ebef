"""What `guard.protect(app)` does to an app of FastAPI or Starlette besides the middleware."""

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import WebSocketRoute

from hourpass.guard.path_scopes import ScopesByPath
from hourpass.guard.requirements import Requirement

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_DOCS = ("openapi_url", "docs_url", "redoc_url", "swagger_ui_oauth2_redirect_url")

# By what require() returned.
_requirements: WeakKeyDictionary[Any, Requirement] = WeakKeyDictionary()

_log = logging.getLogger("hourpass.guard")


def put_inside_of_cors(app: Starlette) -> None:
    """The outermost middleware stands first, and browsers send a preflight without a token."""
    middleware = app.user_middleware
    outermost_before: Any = middleware[1].cls if len(middleware) > 1 else None
    if outermost_before is CORSMiddleware:
        middleware[:2] = reversed(middleware[:2])


def describe(app: Any, guard: Any, is_public: Callable[[str], bool], scopes: ScopesByPath) -> None:
    """Say in the app's OpenAPI which operations need a token, and with which scopes. Its docs show
    a lock and a working Authorize button."""
    openapi = app.openapi
    described = (guard, *guard.key_schemes)
    names = [scheme.scheme_name for scheme in described]

    def openapi_with_security() -> dict[str, Any]:
        schema: dict[str, Any] = openapi()
        schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
        for scheme in described:
            model = scheme.model.model_dump(by_alias=True, exclude_none=True, mode="json")
            schemes.setdefault(scheme.scheme_name, model)
        for path, operations in schema.get("paths", {}).items():
            for method in operations.keys() & _METHODS:
                security: Any = [] if is_public(path) else [{name: []} for name in names]
                for needed in operations[method].setdefault("security", security):
                    for name in needed.keys() & names:
                        known = needed[name]
                        known += [scope for scope in scopes.described(path) if scope not in known]
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
    """The paths of mounts and of routes that are not FastAPI's."""
    for route in routes:
        included = getattr(route, "original_router", None)  # how FastAPI keeps included routers
        if included is not None:
            yield from _paths_of_others(included.routes)
        elif not hasattr(route, "dependant"):
            yield getattr(route, "path", "") or "/"


def mark_requirement(dependency: Callable[..., Any], requirement: Requirement) -> None:
    _requirements[dependency] = requirement


def check_routes(app: Any) -> None:
    """Raises ValueError if a route depends on require() with a name that its path does not have."""
    for path, route, params in _routes(getattr(app, "routes", ()), "", frozenset()):
        for requirement in _requirements_of(getattr(route, "dependant", None)):
            if missing := requirement.path_names - params:
                raise ValueError(f"The path {path} has no {{{min(missing)}}}, which it requires")
            if requirement.reads_body and isinstance(route, WebSocketRoute):
                raise ValueError(f"The websocket {path} has no body, which it requires")


def _routes(
    routes: Iterable[Any], prefix: str, params: frozenset[str]
) -> Iterator[tuple[str, Any, frozenset[str]]]:
    """Each route with its path and the parameters of that, also those of its mounts."""
    for route in routes:
        if hasattr(route, "effective_route_contexts"):  # how FastAPI keeps included routers
            for context in route.effective_route_contexts():
                effective = getattr(context, "starlette_route", None) or context
                yield from _routes([effective], prefix, params)
            continue
        path = prefix + str(getattr(route, "path", ""))
        known = params | frozenset(getattr(route, "param_convertors", ()))
        yield path, route, known
        yield from _routes(getattr(route, "routes", None) or (), path, known)


def _requirements_of(dependant: Any) -> Iterator[Requirement]:
    if dependant is None:
        return
    call = dependant.call
    if isinstance(call, Hashable) and call in _requirements:
        yield _requirements[call]
    for inner in dependant.dependencies:
        yield from _requirements_of(inner)
