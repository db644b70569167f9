"""What can be fetched from: object stores, archives on web servers, Hugging Face repositories."""

import base64
import hashlib
import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from service.serving_config import ASSETS
from service.stores import cloud
from service.stores.errors import StoreError, of_library, of_status
from service.stores.location import Location

# More are somebody's data lake.
MAX_FILES = 100_000
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1024 * 1024
_MAX_ANSWER_BYTES = 64 * 1024 * 1024


class File(NamedTuple):
    """`path`: below the root; empty for an archive. `size`: in bytes; -1 if the server does not tell. `etag`: changes
    with the content. `sha256`: of the content, if it is known."""

    path: str
    size: int
    etag: str
    sha256: str = ""


class Source(Protocol):
    def listing(self) -> list[File]:
        """Raises StoreError."""
        ...

    def fetch(self, file: File, target: Path, fetched: Callable[[int], None]) -> None:
        """Into a new file. `fetched`: called with the size of each piece. Raises StoreError, also if the file is no
        longer the one listed; OSError if it cannot be written."""
        ...


def source_of(location: Location, environ: Mapping[str, str] = os.environ) -> Source:
    if location.scheme == "https":
        return Archive(location, environ)
    if location.scheme == "hf":
        return HuggingFace(location, environ)
    return ObjectStore(location, environ)


class ObjectStore:
    """S3, Google Cloud Storage, Azure Blob Storage."""

    def __init__(self, location: Location, environ: Mapping[str, str]) -> None:
        self._location = location
        self._environ = environ
        # It keeps connections and the credentials of identities.
        self._store: Any = None

    def listing(self) -> list[File]:
        import obstore

        if self._store is None:
            self._store = cloud.connect(self._location, self._environ)
        found: list[File] = []
        try:
            for page in obstore.list(self._store):
                found += map(_of_object, page)
                _check_count(len(found))
        except StoreError:
            raise
        except Exception as error:
            # Credentials that are read from files may be new ones.
            self._store = None
            raise of_library(error) from None
        return _without_folders(found)

    def fetch(self, file: File, target: Path, fetched: Callable[[int], None]) -> None:
        import obstore

        try:
            result = obstore.get(self._store, file.path)
            chunks = iter(result.stream(min_chunk_size=CHUNK_BYTES))
        except Exception as error:
            raise of_library(error) from None
        if _of_object(result.meta)[1:] != file[1:]:
            raise of_status(412)

        def read() -> Any:
            try:
                return next(chunks, b"")
            except Exception as error:
                raise of_library(error) from None

        _write(file, target, read, fetched)


def _of_object(meta: Mapping[str, Any]) -> File:
    # Azure's listing has ETags without quotation marks.
    return File(meta["path"], meta["size"], (meta["e_tag"] or str(meta["last_modified"])).strip('"'))


def _without_folders(files: list[File]) -> list[File]:
    """Without the empty objects that stand for folders, as some tools make them."""
    folders = {parent for file in files for parent in _parents(file.path)}

    def is_folder(file: File) -> bool:
        return file.path in folders or file.path.rpartition("/")[2] in ("assets", "variables", ASSETS)

    return [file for file in files if file.size or not is_folder(file)]


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


class Archive:
    """A tar file on a web server; its listing is one file."""

    def __init__(self, location: Location, environ: Mapping[str, str]) -> None:
        parts = urlsplit(location.url)
        host = parts.netloc.rpartition("@")[2]
        self._url = urlunsplit(parts._replace(netloc=host))
        self._headers: dict[str, str] = {}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        # As KServe hands them over.
        self._headers |= _json_object(environ.get(f"{parts.hostname}-headers", "{}"))

    def listing(self) -> list[File]:
        # A signed URL allows GET alone.
        with _opened(self._url, {**self._headers, "Range": "bytes=0-0"}) as response:
            return [_file_of(response)]

    def fetch(self, file: File, target: Path, fetched: Callable[[int], None]) -> None:
        with _opened(self._url, self._headers) as response:
            now = _file_of(response)
            if now != file:
                raise of_status(412)
            _write(file, target, lambda: response.read(CHUNK_BYTES), fetched)


def _file_of(response: HTTPResponse) -> File:
    headers = response.headers
    length = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
    etag = headers.get("ETag") or headers.get("Last-Modified") or ""
    return File("", int(length) if length.isdecimal() else -1, etag)


class HuggingFace:
    """A repository of models, by the plain HTTP API. https://huggingface.co/docs/hub/api"""

    def __init__(self, location: Location, environ: Mapping[str, str]) -> None:
        self._repository = location.bucket
        self._revision = location.revision or "main"
        self._endpoint = environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        self._environ = environ
        self._commit = ""

    def listing(self) -> list[File]:
        revision = quote(self._revision, safe="")
        url = f"{self._endpoint}/api/models/{self._repository}/revision/{revision}?blobs=true"
        with _opened(url, self._headers()) as response:
            answer = _json_object(response.read(_MAX_ANSWER_BYTES))
        try:
            self._commit = str(answer["sha"])
            files = [_of_sibling(one) for one in answer["siblings"]]
        except (KeyError, TypeError):
            raise StoreError("other", "its answer is not that of Hugging Face's API") from None
        _check_count(len(files))
        return files

    def fetch(self, file: File, target: Path, fetched: Callable[[int], None]) -> None:
        url = f"{self._endpoint}/{self._repository}/resolve/{self._commit}/{quote(file.path)}"
        with _opened(url, self._headers()) as response:
            _write(file, target, lambda: response.read(CHUNK_BYTES), fetched)

    def _headers(self) -> dict[str, str]:
        token = self._environ.get("HF_TOKEN") or _token_in_file(self._environ)
        return {"Authorization": f"Bearer {token}"} if token else {}


def _of_sibling(one: Mapping[str, Any]) -> File:
    large = one.get("lfs") or {}
    return File(one["rfilename"], int(one["size"]), str(one["blobId"]), str(large.get("sha256", "")))


def _token_in_file(environ: Mapping[str, str]) -> str:
    folder = environ.get("HF_HOME", "~/.cache/huggingface")
    try:
        return Path(environ.get("HF_TOKEN_PATH") or f"{folder}/token").expanduser().read_text().strip()
    except (OSError, RuntimeError):
        # RuntimeError: a user without a home.
        return ""


def _write(file: File, target: Path, read: Callable[[], bytes], fetched: Callable[[int], None]) -> None:
    size = 0
    digest = hashlib.sha256() if file.sha256 else None
    with target.open("xb") as out:
        while (file.size < 0 or size <= file.size) and (chunk := read()):
            size += out.write(chunk)
            fetched(len(chunk))
            if digest:
                digest.update(chunk)
        out.flush()
        os.fsync(out.fileno())
    if size < file.size:
        raise StoreError("unreachable", f"the connection was cut off after {size} of {file.size} bytes")
    if size > file.size >= 0:
        raise StoreError(
            "changed", f"{file.path or 'the archive'} has more than the {file.size} bytes that were listed"
        )
    if digest and digest.hexdigest() != file.sha256:
        raise StoreError("refused", f"{file.path} is damaged: its SHA-256 is another than the repository says")


@contextmanager
def _opened(url: str, headers: Mapping[str, str]) -> Iterator[HTTPResponse]:
    """The response to a GET, if it is a good one. Raises StoreError."""
    request = Request(url, headers={"User-Agent": "fitting-room", "Accept-Encoding": "identity", **headers})  # noqa: S310  # http for HF_ENDPOINT alone
    try:
        response = build_opener(_Redirect, HTTPSHandler(context=ssl.create_default_context())).open(
            request, timeout=TIMEOUT_SECONDS
        )
    except HTTPError as error:
        with error:
            raise of_status(error.code, retry_after=error.headers.get("Retry-After")) from None
    except URLError as error:
        raise of_library(error.reason if isinstance(error.reason, Exception) else error) from None
    except (OSError, HTTPException, ValueError) as error:
        raise of_library(error) from None
    with response:
        try:
            yield cast(HTTPResponse, response)
        except (HTTPException, TimeoutError, ConnectionError, ssl.SSLError):
            raise StoreError("unreachable", "the connection was cut off") from None


class _Redirect(HTTPRedirectHandler):
    """Takes no credentials along to another host, nor to a connection that is not encrypted."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise StoreError("refused", "it redirects to a connection that is not encrypted")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and request.host != req.host:
            request.headers = {name: text for name, text in request.headers.items() if name in ("User-agent", "Range")}
        return request


def _check_count(count: int) -> None:
    if count > MAX_FILES:
        raise StoreError("refused", f"it holds more than {MAX_FILES} files; a models folder is expected")


def _json_object(text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StoreError("other", "an answer or a variable of headers is no JSON object")
    return found
