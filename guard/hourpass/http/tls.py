"""Which certificates the package's own requests trust, and which one they show."""

import os
import ssl
from functools import cache
from importlib import import_module
from typing import TypeAlias

# The authorities to trust: True for those of the system, or a file or directory of them.
Verify: TypeAlias = bool | str | os.PathLike[str] | ssl.SSLContext
# A file with certificate and private key, or one of each.
Cert: TypeAlias = str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]


class Tls:
    def __init__(self, verify: Verify = True, cert: Cert | None = None) -> None:  # noqa: FBT002 - `verify=` is its name everywhere
        """Raises ValueError if a file cannot be used."""
        if verify is False:
            raise ValueError("verify=False would trust anybody; give the file of your authority")
        if isinstance(verify, ssl.SSLContext) and cert is not None:
            raise ValueError("with an SSLContext, load the client certificate into it")
        self._verify = verify
        self._cert = cert
        if verify is not True or cert is not None:
            try:
                self.context()
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                raise ValueError(f"verify={verify!s}, cert={_names(cert)}: {error}") from None

    def context(self) -> ssl.SSLContext:
        """A context for one connection. Reads given files again, so that renewed ones are used."""
        if isinstance(self._verify, ssl.SSLContext):
            return self._verify
        if self._verify is True and self._cert is None:
            return _system_context()
        context = _new_context(None if self._verify is True else os.fspath(self._verify))
        if isinstance(self._cert, tuple):
            context.load_cert_chain(*self._cert)
        elif self._cert is not None:
            context.load_cert_chain(self._cert)
        return context


@cache
def _system_context() -> ssl.SSLContext:
    """All guards of the process share it, because it takes milliseconds and a megabyte."""
    return _new_context(None)


def _new_context(authorities: str | None) -> ssl.SSLContext:
    if authorities is None:
        context = ssl.create_default_context(cafile=_certifi_file())
    elif os.path.isdir(authorities):  # noqa: PTH112 - it is a string for OpenSSL
        context = ssl.create_default_context(capath=authorities)
    else:
        context = ssl.create_default_context(cafile=authorities)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _certifi_file() -> str | None:
    """The authorities of a Python that finds none of the system, as some on macOS."""
    paths = ssl.get_default_verify_paths()
    if os.name == "nt" or paths.cafile or paths.capath:
        return None
    try:
        file: str = import_module("certifi").where()
    except ModuleNotFoundError:
        return None
    return file


def _names(cert: Cert | None) -> str:
    return ", ".join(map(str, cert)) if isinstance(cert, tuple) else str(cert)
