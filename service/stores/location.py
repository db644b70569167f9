"""Where models are, in settings: a folder, or the URL of an object store, an archive or a Hugging Face repository."""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from service.settings import Settings

Scheme = Literal["s3", "gs", "az", "https", "hf"]

EXPECTED = (
    "expected a folder, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, hf://organisation/model, "
    + ("https://account.blob.core.windows.net/container/prefix, or https://host/model.tar.gz")
)
_ARCHIVE = re.compile(r"\.(?:tar|tar\.gz|tgz)$")
_AZURE_HOST = re.compile(r"([a-z0-9]+)\.(?:z[0-9]+\.)?(?:blob|dfs)\.(?:core\.windows\.net|storage\.azure\.net)")
_HF_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+?)(?:[@:]([\w./-]+))?/?", re.ASCII)


class InvalidLocation(ValueError):
    """The URL is of no store; the message says what was expected, and holds nothing of a credential."""


@dataclass(frozen=True, slots=True)
class Location:
    """`bucket`: or container, host, repository. `prefix`: of the keys, without slashes at its ends. `account`: of
    Azure, if the URL names it. `revision`: of a Hugging Face repository. `url`: of an archive, with its credentials, as
    `query` may be one, so neither is shown."""

    scheme: Scheme
    bucket: str
    prefix: str = ""
    account: str = ""
    revision: str = ""
    url: str = field(default="", repr=False)
    query: str = field(default="", repr=False)

    def __str__(self) -> str:
        """For the log: without user, password and query."""
        if self.account:
            return f"https://{self.account}.blob.core.windows.net/{self.bucket}/{self.prefix}"
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.scheme}://{self.bucket}{revision}" + (f"/{self.prefix}" if self.prefix else "")

    @property
    def name(self) -> str:
        """What a model is called that has no name of its own there."""
        return _ARCHIVE.sub("", (self.prefix or self.bucket).rpartition("/")[2])

    @property
    def is_archive(self) -> bool:
        return bool(self.url)


def parse(text: str) -> Location | None:
    """None for a folder. Raises InvalidLocation."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return None
    try:
        parts = urlsplit(text)
        host = f"{parts.hostname or ''}:{parts.port}" if parts.port else parts.hostname or ""
    except ValueError:
        raise InvalidLocation(f"a URL that cannot be read; {EXPECTED}") from None
    path = unquote(parts.path).strip("/")
    if scheme == "hf":
        if found := _HF_REPOSITORY.fullmatch(rest):
            return Location("hf", found[1], revision=found[2] or "")
        raise InvalidLocation(
            f"{EXPECTED}; a repository is hf://organisation/model or hf://organisation/model@revision"
        )
    if scheme == "https" and host:
        if _ARCHIVE.search(path):
            return Location("https", host, path, url=text)
        if (azure := _AZURE_HOST.fullmatch(host)) and path:
            container, _, prefix = path.partition("/")
            return Location("az", container, prefix, account=azure[1], query=parts.query)
    # Bucket names may have characters that a host has not.
    bucket = rest.partition("/")[0]
    if scheme in ("s3", "gs", "az") and bucket and "@" not in bucket and not parts.query:
        return Location(scheme, bucket, rest[len(bucket) :].strip("/"))  # type: ignore[arg-type]  # one of three
    raise InvalidLocation(f"not a store that the service knows; {EXPECTED}")


def location_of(settings: Settings) -> Location | None:
    """The store that the models are in; None if they are in folders. Raises InvalidLocation."""
    if settings.model_config_file and not settings.base_path:
        return None
    setting, text = ("BASE_PATH", settings.base_path) if settings.base_path else ("MODELS", settings.models)
    try:
        return parse(text)
    except InvalidLocation as error:
        raise InvalidLocation(f"SERVING_{setting}: {error}") from None


def fetched(settings: Settings, location: Location, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings that serve what is fetched from there: with the folder in place of the URL."""
    folder = Path(settings.store_folder or _cache_folder(settings, location, environ)).absolute()
    if settings.base_path:
        model = settings.model_name or location.name
        return replace(settings, base_path=str(folder / model), model_name=model, store_folder=str(folder))
    return replace(settings, models=str(folder), store_folder=str(folder))


def _cache_folder(settings: Settings, location: Location, environ: Mapping[str, str]) -> Path:
    """The same after a restart, and another for each store and service of this machine."""
    key = repr((str(location), bool(settings.base_path), settings.host, settings.port))
    try:
        cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        # A user without a home.
        cache = Path(tempfile.gettempdir())
    return cache / "fitting-room" / f"{location.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
