"""Who asks Azure Blob Storage, and where a container is.

Keys are never part of a job. In this order: AZURE_STORAGE_CONNECTION_STRING; AZURE_STORAGE_KEY or
AZURE_STORAGE_SAS_TOKEN, for the account AZURE_STORAGE_ACCOUNT if that is set; else what azure-identity finds (service
principal, workload or managed identity, `az login`).

    abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH     abfss://CONTAINER/PATH, with an endpoint or account known
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from headrace.program import StorageOptions

VERSION = "2023-11-03"
"""Of the REST API."""
_SCOPE = "https://storage.azure.com/.default"
_SIGNED = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)


_FORM = "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net"


class BadPlace(OSError):
    """A URI says not enough of where it is."""


@dataclass(frozen=True, slots=True)
class Container:
    """Where a container is and whose it is."""

    name: str
    account: str
    endpoint: str  # without a slash at the end
    root: str  # as users write it


@dataclass(frozen=True, slots=True)
class _Known:
    """What the environment says."""

    account: str = ""
    endpoint: str = ""
    key: str = ""
    sas: str = ""


def split_path(path: str) -> tuple[str, str]:
    """``abfss://CONTAINER[@HOST]`` and key."""
    scheme, _, rest = path.partition("://")
    root, _, key = rest.partition("/")
    return f"{scheme}://{root}", key


def container_of(path: str, storage: StorageOptions) -> Container:
    """The container of a path.

    Raises:
        BadPlace: it names no container, or nothing says whose account it is in.
    """
    root, _ = split_path(path)
    name, _, host = root.partition("://")[2].partition("@")
    if not name:
        raise BadPlace(f"{root} names no container: {_FORM}")
    known = _known()
    account = host.partition(".")[0] or known.account
    if storage.endpoint:
        account = account or urlsplit(storage.endpoint).path.strip("/")
        endpoint = storage.endpoint
    elif known.endpoint and account == known.account:
        endpoint = known.endpoint
    else:
        domain = host.partition(".")[2].replace("dfs.", "blob.", 1) or "blob.core.windows.net"
        endpoint = f"https://{account}.{domain}"
    if not account:
        raise BadPlace(f"{root} names no account: {_FORM}")
    return Container(name, account, endpoint.rstrip("/"), root)


def object_url(container: Container, key: str = "") -> str:
    """Of one blob, or of the container."""
    return f"{container.endpoint}/{quote(container.name)}" + (f"/{quote(key)}" if key else "")


class Unsigned:
    """Signs nothing."""

    def url(self, url: str) -> str:
        """As it is."""
        return url

    def headers(self, method: str, url: str, headers: Mapping[str, str], nbytes: int) -> Mapping[str, str]:
        """With the version of the API."""
        return {**headers, "x-ms-version": VERSION}


_TOKEN = re.compile(r"[!$-~]+")
"""What stands in the query of a URL: ASCII without spaces, quotes and #."""


class SasSigner(Unsigned):
    """A token in the URL."""

    def __init__(self, token: str) -> None:
        """Raises PermissionError where the token isn't one."""
        self._token = token.removeprefix("?")
        if not _TOKEN.fullmatch(self._token):
            raise PermissionError("the SAS token of the storage account isn't the query of a URL")

    def url(self, url: str) -> str:
        """With the token."""
        return f"{url}{'&' if '?' in url else '?'}{self._token}"


class KeySigner(Unsigned):
    """Shared Key: a signature of the request (learn.microsoft.com, "Authorize with Shared Key")."""

    def __init__(self, account: str, key: str) -> None:
        """Raises PermissionError where the key isn't one."""
        self._account = account
        try:
            self._key = base64.b64decode(key, validate=True)
        except binascii.Error as error:
            raise PermissionError("the key of the storage account isn't base64") from error

    def headers(self, method: str, url: str, headers: Mapping[str, str], nbytes: int) -> Mapping[str, str]:
        """With a signature that is good for a quarter of an hour."""
        signed = {**super().headers(method, url, headers, nbytes), "x-ms-date": formatdate(usegmt=True)}
        small = {name.lower(): value for name, value in signed.items()}
        small["content-length"] = str(nbytes or "")
        parts = urlsplit(url)
        text = [method, *(small.get(name, "") for name in _SIGNED)]
        text += [f"{name}:{value}" for name, value in sorted(small.items()) if name.startswith("x-ms-")]
        text.append(f"/{self._account}{parts.path}")
        text += [f"{name}:{value}" for name, value in sorted(parse_qsl(parts.query, keep_blank_values=True))]
        digest = hmac.new(self._key, "\n".join(text).encode(), hashlib.sha256).digest()
        signed["Authorization"] = f"SharedKey {self._account}:{base64.b64encode(digest).decode()}"
        return signed


class IdentitySigner(Unsigned):
    """A token of the identity that the machine has. Thread-safe."""

    def __init__(self) -> None:
        """Raises ImportError where azure-identity isn't installed."""
        import azure.identity

        self._lock = threading.Lock()
        self._credential: Any = azure.identity.DefaultAzureCredential()
        self._has_been_given = False

    def headers(self, method: str, url: str, headers: Mapping[str, str], nbytes: int) -> Mapping[str, str]:
        """With a token that is good for a while.

        Raises:
            PermissionError: there is no identity, or it is refused, and never was there a token.
            OSError: whoever gives tokens doesn't answer, or gives no more.
        """
        from azure.core.exceptions import AzureError, ClientAuthenticationError

        try:
            with self._lock:
                token = self._credential.get_token(_SCOPE).token
                self._has_been_given = True
        except ClientAuthenticationError as error:
            told = (error.message.splitlines() or [""])[0]
            if self._has_been_given:  # a service of the machine that is away looks like one that isn't there
                raise OSError(f"no token any more: {told}") from error
            raise PermissionError(f"no credentials: {told} ({_HINT})") from error
        except AzureError as error:
            raise OSError(f"no token: {error}") from error
        return {**super().headers(method, url, headers, nbytes), "Authorization": f"Bearer {token}"}


_HINT = "AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, an identity; storage: {anonymous: true} reads a public container"


def azure_signer(account: str, *, anonymous: bool) -> Unsigned:
    """Who asks for what is in an account.

    Raises:
        ImportError: azure-identity is needed and isn't installed.
        PermissionError: the key isn't one.
    """
    if anonymous:
        return Unsigned()
    known = _known()
    if known.account in ("", account):
        if known.key:
            return KeySigner(account, known.key)
        if known.sas:
            return SasSigner(known.sas)
    return _identity()


@cache
def _identity() -> IdentitySigner:
    return IdentitySigner()  # one for the process: it keeps its tokens


def _known() -> _Known:
    text = _environ("AZURE_STORAGE_CONNECTION_STRING")
    if text:
        found = {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in text.split(";"))}
        account = found.get("AccountName", "")
        suffix = found.get("EndpointSuffix", "core.windows.net")
        scheme = found.get("DefaultEndpointsProtocol", "https")
        return _Known(
            account,
            found.get("BlobEndpoint", f"{scheme}://{account}.blob.{suffix}" if account else ""),
            found.get("AccountKey", ""),
            found.get("SharedAccessSignature", ""),
        )
    return _Known(
        _environ("AZURE_STORAGE_ACCOUNT"), "", _environ("AZURE_STORAGE_KEY"), _environ("AZURE_STORAGE_SAS_TOKEN")
    )


def _environ(name: str) -> str:
    return os.environ.get(name, "").strip()  # files that secrets are kept in end with a line break


def name_of(element: Any) -> str:
    """The name of a blob in a listing, which is percent-encoded where XML can't hold it."""
    text = element.text or ""
    return unquote(text) if element.get("Encoded") == "true" else text
