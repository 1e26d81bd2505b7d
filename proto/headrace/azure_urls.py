"""Blobs of Azure as URLs; `headrace.httpfile` fetches.

Paths are ``abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/KEY``, the key as it is, not percent-encoded. The blob API
reads them, which also serves accounts with folders (Data Lake Storage): their folders are passed over.
"""

from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlencode
from xml.etree import ElementTree

from headrace.azure_auth import (
    BadPlace,
    Container,
    Unsigned,
    azure_signer,
    container_of,
    name_of,
    object_url,
    split_path,
)
from headrace.errors import SourceRefused
from headrace.httpfile import Found, HttpFiles, Pacing, Refusal, quoted
from headrace.program import StorageOptions
from headrace.retries import RetryBudget

PAGE_KEYS = 5_000
"""Names of one page of a listing, as many as the store gives."""


class AzureUrls:
    """GETs of blobs. Thread-safe."""

    has_suffix_ranges = False  # bytes=-100 isn't known there

    def __init__(self, storage: StorageOptions, page_keys: int = PAGE_KEYS) -> None:
        self._storage = storage
        self._page_keys = page_keys
        self._signers: dict[
            tuple[str, str], Unsigned
        ] = {}  # by account and endpoint; what threads put there is the same

    def url(self, path: str, page: str | None) -> str:
        """The URL of a blob's bytes, or of a page of the listing of names that begin with the path's."""
        try:
            container = container_of(path, self._storage)
            signer = self._signer(container)
        except ImportError as error:
            raise SourceRefused(
                "abfss:// needs AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or azure-identity: "
                "pip install 'headrace[azure]'"
            ) from error
        except (BadPlace, PermissionError) as error:
            raise SourceRefused(str(error)) from error
        _, key = split_path(path)
        if page is None:
            return signer.url(object_url(container, key))
        query = {"restype": "container", "comp": "list", "prefix": key, "maxresults": str(self._page_keys)}
        return signer.url(f"{object_url(container)}?{urlencode(query | ({'marker': page} if page else {}))}")

    def headers(self, path: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Signed."""
        try:
            return self._signer(container_of(path, self._storage)).headers("GET", url, headers, 0)
        except PermissionError as error:
            raise SourceRefused(f"abfss://: {error}") from error

    def version(self, headers: Mapping[str, str]) -> str:
        """The ETag."""
        return ""

    def is_moved(self, path: str, headers: Mapping[str, str]) -> bool:
        """False: an account is where its name says."""
        return False

    def refusal(self, body: bytes) -> Refusal:
        """The code and message of the store's XML."""
        return refusal_of(body)

    def _signer(self, container: Container) -> Unsigned:
        whose = (container.account, container.endpoint)
        if whose not in self._signers:
            self._signers[whose] = azure_signer(container.account, anonymous=self._storage.anonymous)
        return self._signers[whose]


def refusal_of(body: bytes) -> Refusal:
    """Why the store refuses."""
    try:
        found = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return Refusal()
    message = (found.findtext("Message") or "").partition("\n")[0]
    return Refusal(found.findtext("Code") or "", message)


def azure_files(storage: StorageOptions, pacing: Pacing, budget: RetryBudget) -> HttpFiles:
    """Blobs as files."""
    return HttpFiles(AzureUrls(storage), pacing, budget)


def list_blobs(files: HttpFiles, path: str) -> Iterator[Found]:
    """Blobs whose paths begin with `path`, in the order of their names, one request per PAGE_KEYS.

    Raises:
        SourceRefused, SourceUnavailable: as `HttpFiles`.
    """
    root, _ = split_path(path)
    marker = ""
    while True:
        page = ElementTree.fromstring(files.page(path, marker))
        for item in page.iterfind("Blobs/Blob"):
            name, about = item.find("Name"), item.find("Properties")
            assert name is not None
            assert about is not None
            if about.findtext("ResourceType") == "directory":
                continue
            changed = parsedate_to_datetime(about.findtext("Last-Modified") or "Thu, 01 Jan 1970 00:00:00 GMT")
            yield Found(
                path=f"{root}/{name_of(name)}",
                size=int(about.findtext("Content-Length") or 0),
                version=quoted(about.findtext("Etag") or ""),
                modified_ns=int(changed.timestamp()) * 1_000_000_000,
            )
        marker = page.findtext("NextMarker") or ""
        if not marker:
            return
