"""The endpoint of a ServiceX: address and token, from ``backend``, ``url`` and ``config_path``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from .._upstream.servicex import read_configuration
from ..errors import ConfigurationError
from ..redact import Secret

# What may stand behind "Bearer" in a header: visible ASCII characters, but no space.
_TOKEN = re.compile("[!-~]*")
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True, slots=True)
class EndpointName:
    """Name by which another process finds the endpoint again: no secrets."""

    backend: str | None
    url: str | None
    config_path: str | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a ServiceX, and the refresh token for it."""

    url: str
    refresh_token: Secret | None
    name: EndpointName

    def bearer(self) -> Secret | None:
        """Return the facility's token, read at each call because facilities rotate it.

        Raises
        ------
        ConfigurationError
            If ``BEARER_TOKEN_FILE`` names a file that cannot be read, or that holds no token.
        """
        path = os.environ.get("BEARER_TOKEN_FILE")
        if not path:
            return None
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            text = f"BEARER_TOKEN_FILE names {path}, which cannot be read: {error.strerror}"
            raise ConfigurationError(text) from None
        return _token(content.decode("ascii", "replace"), f"{path}, which BEARER_TOKEN_FILE names,")


def find_endpoint(name: EndpointName) -> Endpoint:
    """Return the endpoint of a name, as the servicex client finds it. No request is made.

    A URL has no token, unless a configuration that is given beside it has one for that address.

    Raises
    ------
    ConfigurationError
        If there is no ``servicex.yaml``, it is not valid, or it has no such backend; if both a
        backend and a URL are given, or a URL with a password; if a token would be sent unencrypted
        to another machine, or is not valid.
    """
    if name.url and name.backend:
        raise ConfigurationError("Give backend= (a name in servicex.yaml) or url=, not both.")
    url, token = (name.url, _token_of(name.url, name)) if name.url else _configured(name)
    if "@" in url:
        # Passwords may hold characters at which parsers end the part of a URL that has them.
        raise ConfigurationError(
            f"The address of a ServiceX must not hold a password, as ...@{url.rpartition('@')[2]} "
            "does: it travels with the graph. Put a token into servicex.yaml."
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{url!r} is not the http(s) address of a ServiceX.")
    refresh_token = _token(token, "servicex.yaml") if token else None
    endpoint = Endpoint(url.rstrip("/"), refresh_token, name)
    has_token = endpoint.refresh_token is not None or endpoint.bearer() is not None
    if has_token and parts.scheme == "http" and parts.hostname not in LOOPBACK:
        text = f"A token would be sent unencrypted to {parts.hostname}; use the https address."
        raise ConfigurationError(text)
    return endpoint


def _token(text: str, where: str) -> Secret:
    """Check a token: errors of HTTP libraries would show one that is not valid."""
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise ConfigurationError(
            f"{where} holds no token: that is one line of letters, digits and signs, without "
            "spaces or comments."
        )
    return Secret(token)


def _configuration(name: EndpointName) -> Any:
    from yaml import YAMLError

    try:
        return read_configuration(name.config_path)
    except NameError:
        where = name.config_path or "this directory, the ones above it and your home directory"
        raise ConfigurationError(
            f"There is no servicex.yaml in {where}. Write one, or give url=; url='local' starts a "
            "ServiceX on this machine."
        ) from None
    except (OSError, YAMLError) as error:
        text = f"{name.config_path or 'servicex.yaml'} cannot be read: {type(error).__name__}"
        raise ConfigurationError(text) from None
    except ValueError as error:
        where = name.config_path or "The servicex.yaml that was found"
        # The values may hold a token: name the places only.
        places = [".".join(map(str, e["loc"])) for e in getattr(error, "errors", list)()]
        text = f"{where} is not valid: {', '.join(places) or 'see its syntax'}"
        raise ConfigurationError(text) from None


def _token_of(url: str, name: EndpointName) -> str:
    """Return the token that a configuration has for an address."""
    if name.config_path is None:
        return ""
    endpoints = _configuration(name).endpoint_dict().values()
    tokens = [end.token for end in endpoints if end.endpoint.rstrip("/") == url.rstrip("/")]
    return next(filter(None, tokens), "")


def _configured(name: EndpointName) -> tuple[str, str]:
    config = _configuration(name)
    endpoints = config.endpoint_dict()
    backend = name.backend or config.default_endpoint or next(iter(endpoints), None)
    if backend not in endpoints:
        names = ", ".join(map(repr, endpoints)) or "none"
        text = f"{config.config_file} has no backend {backend!r}; it has {names}."
        raise ConfigurationError(text)
    return endpoints[backend].endpoint, endpoints[backend].token or ""
