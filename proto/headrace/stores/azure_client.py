"""Requests to one container of Azure Blob Storage; failures as OSErrors.

    FileNotFoundError   no such blob           FileExistsError   the name is taken (If-None-Match)
    NoSuchBlocks        not all of its blocks are there
    PermissionError     refused, or no credentials
    StoreUnavailable    throttled, failing or silent, after all tries
    OSError             anything else

Not here: outputs and how their files are staged (`headrace.stores.azure`), tries (`headrace.stores.rest`).
"""

import base64
import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from urllib.parse import urlencode
from xml.etree import ElementTree

from headrace.azure_auth import azure_signer, container_of, name_of, object_url
from headrace.azure_urls import refusal_of
from headrace.httpfile import Pacing
from headrace.program import StorageOptions
from headrace.retries import RetryBudget
from headrace.stores.bucket_store import TOKEN, Head
from headrace.stores.rest import Answer, Rest
from headrace.stores.writing import PATIENCE, each

DROPPED = "dropped"
"""The token of the empty blob that takes the place of blocks until it is deleted; until then it counts as absent."""
CREATE_TRIES = 3
"""Of making a blob whose name others take and give free."""


class NoSuchBlocks(OSError):
    """Blocks were discarded, or never were."""


class Blobs:
    """One container. Thread-safe; making it sends nothing."""

    def __init__(self, path: str, storage: StorageOptions, pacing: Pacing | None = None) -> None:
        """`path` is any in it.

        Raises:
            ImportError: azure-identity is needed and isn't installed.
            BadPlace: the URI says not enough.
        """
        self._container = container_of(path, storage)
        signer = azure_signer(self._container.account, anonymous=storage.anonymous)
        self._rest = Rest(signer, pacing or Pacing(PATIENCE), _budget(self._container.endpoint))

    @property
    def place(self) -> str:
        """Its URI."""
        return self._container.root

    def head(self, key: str) -> Head | None:
        """What is known of a blob, None where there is none."""
        found = self._head(key)
        return None if found is None or found.token == DROPPED else found

    def get(self, key: str, begin: int, end: int, version: str) -> bytes:
        """Bytes ``[begin, end)`` of a blob with that ETag."""
        if end <= begin:
            return b""
        answer = self._send("GET", key, {"Range": f"bytes={begin}-{end - 1}", "If-Match": version})
        if len(answer.body) != end - begin:
            raise OSError(f"{self.place}/{key}: {len(answer.body)} bytes came for {end - begin}")
        return answer.body

    def put(self, key: str, body: bytes, token: str) -> None:
        """Creates a blob; FileExistsError: there is one, maybe this, when an answer was lost."""
        headers = {
            "Content-MD5": _md5(body),
            "Content-Type": "application/octet-stream",
            "x-ms-blob-type": "BlockBlob",
            _META: token,
        }
        self._create(key, headers, body)

    def put_block(self, key: str, block: str, body: bytes) -> None:
        """Puts a block where no reader sees it; again, it replaces itself."""
        self._send("PUT", key, {"Content-MD5": _md5(body)}, body, {"comp": "block", "blockid": block})

    def put_blocks(self, key: str, blocks: Sequence[str], token: str) -> None:
        """Creates a blob of blocks.

        Raises:
            NoSuchBlocks: not all of them are there.
            FileExistsError: there is a blob, maybe this.
        """
        items = "".join(f"<Uncommitted>{block}</Uncommitted>" for block in blocks)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{items}</BlockList>'.encode()
        self._create(key, {"Content-Type": "application/xml", _META: token}, body, {"comp": "blocklist"})

    def blocks(self, key: str) -> list[tuple[str, int]]:
        """Names and sizes of the blocks that wait under a name."""
        try:
            answer = self._send("GET", key, query={"comp": "blocklist", "blocklisttype": "uncommitted"})
        except FileNotFoundError:
            return []
        found = ElementTree.fromstring(answer.body).iterfind("UncommittedBlocks/Block")
        return [(block.findtext("Name") or "", int(block.findtext("Size") or 0)) for block in found]

    def drop_blocks(self, key: str) -> None:
        """Discards the blocks that wait under a name, unless they have become a blob.

        The store has no request for that. A blob of none of them discards them; it is empty and deleted at once, and
        where that fails, by the next call.
        """
        with contextlib.suppress(FileExistsError):
            self.put_blocks(key, [], DROPPED)
        found = self._head(key)
        if found is not None and found.token == DROPPED:
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                self._send("DELETE", key, {"If-Match": found.version})

    def keys(self, prefix: str, *, deep: bool = True) -> Iterator[str]:
        """Names that begin with `prefix`; not `deep`: without those that have a further ``/``."""
        found = self._listed(prefix, {"include": "metadata"} | ({} if deep else {"delimiter": "/"}))
        return (key for key, token in found if token != DROPPED)

    def waiting(self, prefix: str) -> list[tuple[str, str]]:
        """Names that begin with `prefix` under which only blocks wait, or a blob that discarded them; its token."""
        found = list(self._listed(prefix, {"include": "metadata,uncommittedblobs"}))
        blobs = set(self.keys(prefix))  # asked for after: what was published meanwhile doesn't wait
        return [item for item in found if item[0] not in blobs]

    def delete(self, keys: list[str]) -> None:
        """Deletes blobs, several at once; those that are gone already are fine."""
        each(self._delete, keys)

    # ------------------------------------------------------------------ inside

    def _head(self, key: str) -> Head | None:
        """As `head`, also of a blob that discarded blocks."""
        try:
            found = self._send("HEAD", key).headers
        except FileNotFoundError:
            return None
        return Head(int(found["content-length"]), found["etag"], found.get(_META, ""))

    def _create(
        self, key: str, headers: Mapping[str, str], body: bytes, query: Mapping[str, str] | None = None
    ) -> None:
        """Makes a blob where there is none, or in the place of one that discarded blocks."""
        condition = {"If-None-Match": "*"}
        for tries_left in reversed(range(CREATE_TRIES)):
            try:
                self._send("PUT", key, {**headers, **condition}, body, query)
            except FileExistsError:
                found = self._head(key)
                if not tries_left or (found is not None and found.token != DROPPED):
                    raise
                condition = {"If-Match": found.version} if found is not None else {"If-None-Match": "*"}
            else:
                return

    def _delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._send("DELETE", key)

    def _listed(self, prefix: str, more: dict[str, str]) -> Iterator[tuple[str, str]]:
        """Names and tokens."""
        query = {"restype": "container", "comp": "list", "prefix": prefix, **more}
        while True:
            page = ElementTree.fromstring(self._send("GET", "", query=query).body)
            for item in page.iterfind("Blobs/Blob"):
                if item.findtext("Properties/ResourceType") != "directory":
                    yield name_of(item.find("Name")), item.findtext(f"Metadata/{_NAME}") or ""
            query["marker"] = page.findtext("NextMarker") or ""
            if not query["marker"]:
                return

    def _send(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        place = f"{self.place}/{key}" if key else self.place
        url = object_url(self._container, key) + (f"?{urlencode(query)}" if query else "")
        answer = self._rest.send(place, method, url, headers, body)
        if answer.status < 300:
            return answer
        refusal = refusal_of(answer.body)
        code = refusal.code or answer.headers.get("x-ms-error-code", "")
        raise _os_error(place, answer.status, code, refusal.message)


_NAME = TOKEN.replace("-", "_")
_META = f"x-ms-meta-{_NAME}"


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


@cache
def _budget(endpoint: str) -> RetryBudget:
    return RetryBudget()  # one for all containers of an account: they throttle and fail together


def _os_error(place: str, status: int, code: str, message: str) -> OSError:
    text = f"{place}: the store answers {status}" + "".join(f" {word}" for word in (code, message) if word)
    match status, code:
        case _, "InvalidBlockList":
            return NoSuchBlocks(text)
        case 404, "ContainerNotFound":
            return OSError(text)
        case 404, _:
            return FileNotFoundError(text)
        case (409, "BlobAlreadyExists") | (412, "ConditionNotMet" | ""):
            return FileExistsError(text)
        case ((401 | 403), _):
            return PermissionError(text)
        case _:
            return OSError(text)
