"""How Kubeflow Pipelines is reached: its address, and from the environment certificates, a proxy and what logs in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import kfp_server_api as api

from pipelines.remote.errors import RemoteError, first_line
from pipelines.remote.secrets import header_value
from tfslim_core.errors import UsageError

ENDPOINT = ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT")


def configuration(endpoint: str, environ: Mapping[str, str]) -> api.Configuration:
    """What the client of the API needs to know.

    Raises:
        UsageError: a file that the environment names is not there, or what it holds is no token.
    """
    found = api.Configuration(host=endpoint)
    found.retries = False  # urllib3 would send what is not safe to send twice, and follow to a login page
    if authority := environ.get("KFP_CA_FILE"):
        if not Path(authority).is_file():
            raise UsageError(f"KFP_CA_FILE={authority}: no such file")
        found.ssl_ca_cert = authority
    if found.proxy is None:
        found.proxy = _proxy(endpoint, environ)
    token, file, audience = (environ.get(name, "") for name in ("KFP_TOKEN", "KFP_TOKEN_FILE", "KFP_IAP_CLIENT_ID"))
    if token or file or audience:
        found.api_key["authorization"] = header_value(token, "KFP_TOKEN")
        found.api_key_prefix["authorization"] = "Bearer"
    if file and not token:
        found.refresh_api_key_hook = lambda current: _read_token(current, Path(file))
        _read_token(found, Path(file))
    elif audience and not token:
        found.refresh_api_key_hook = _IdentityToken(audience)
    return found


def _proxy(endpoint: str, environ: Mapping[str, str]) -> str | None:
    from requests.utils import select_proxy, should_bypass_proxies

    if should_bypass_proxies(endpoint, no_proxy=environ.get("no_proxy") or environ.get("NO_PROXY")):
        return None
    known = {
        scheme: environ.get(f"{scheme}_proxy") or environ.get(f"{scheme.upper()}_PROXY") for scheme in ("http", "https")
    }
    return cast("str | None", select_proxy(endpoint, {scheme: value for scheme, value in known.items() if value}))


def _read_token(configuration: api.Configuration, file: Path) -> None:
    """A token in a file is read anew for every request: what mounts it there also renews it."""
    try:
        configuration.api_key["authorization"] = header_value(file.read_text(), f"KFP_TOKEN_FILE={file}")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"KFP_TOKEN_FILE={file}: cannot be read ({first_line(str(error))})") from error


class _IdentityToken:
    """Google's token for a server behind an Identity-Aware Proxy, of the application default credentials."""

    def __init__(self, audience: str) -> None:
        self._audience = audience
        self._credentials: Any = None

    def __call__(self, configuration: api.Configuration) -> None:
        from google.auth import exceptions
        from google.auth.transport.requests import Request
        from google.oauth2 import id_token

        request = Request()
        try:
            if self._credentials is None:
                self._credentials = id_token.fetch_id_token_credentials(self._audience, request=request)
            if not self._credentials.valid:
                self._credentials.refresh(request)
        except exceptions.GoogleAuthError as error:
            raise RemoteError(f"KFP_IAP_CLIENT_ID: no token of Google's: {first_line(str(error))}") from error
        configuration.api_key["authorization"] = self._credentials.token
