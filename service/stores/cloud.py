"""Clients of S3, Google Cloud Storage and Azure Blob Storage, configured as their own SDKs and KServe configure them.

obstore reads the usual variables and asks for the identities of instances and workloads:
https://developmentseed.org/obstore/latest/authentication/. Here is what it leaves out: the names that KServe gives a
storage initializer, and AWS's files of credentials.
https://github.com/kserve/kserve/blob/master/python/storage/kserve_storage/kserve_storage.py
"""

import configparser
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

from service.stores.errors import StoreError
from service.stores.location import Location

Variables: TypeAlias = Mapping[str, str]

# By KServe's `type: s3` in STORAGE_CONFIG.
_OF_STORAGE_CONFIG = {
    "endpoint_url": "AWS_ENDPOINT_URL",
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "region": "AWS_DEFAULT_REGION",
    "ca_bundle": "AWS_CA_BUNDLE",
    "verify_ssl": "S3_VERIFY_SSL",
    "anonymous": "awsAnonymousCredential",
}
# Any of them says where S3's credentials come from; else they may be in files.
_AWS_SOURCES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def connect(location: Location, environ: Variables = os.environ) -> Any:
    """A store of obstore; nothing is sent yet. Raises StoreError for a configuration that cannot be."""
    from obstore import store as stores

    variables = _variables(environ)
    kind, config = {
        "s3": (stores.S3Store, _s3),
        "gs": (stores.GCSStore, _google),
        "az": (stores.AzureStore, _azure),
    }[location.scheme]
    endpoint, options = config(location, variables)
    client: dict[str, Any] = {
        # A whole large file may take long; a connection may not be silent for long.
        "timeout": "1day",
        "connect_timeout": "5s",
        "read_timeout": "30s",
        "user_agent": "fitting-room",
        "allow_http": endpoint.startswith("http:"),
    }
    if bundle := variables.get("AWS_CA_BUNDLE") or variables.get("SSL_CERT_FILE"):
        client["root_certificate"] = _read(bundle)
    if location.scheme == "s3" and variables.get("S3_VERIFY_SSL", "").lower() in ("0", "false"):
        client["allow_invalid_certificates"] = True
    # Of a single request; between two listings the fetching process makes longer pauses.
    retries = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
    try:
        return kind(
            location.bucket,
            prefix=location.prefix or None,
            config=options,
            client_options=client,
            retry_config=retries,
        )
    except Exception as error:
        # Its words may hold what it was given.
        raise StoreError("denied", f"its settings and credentials cannot be used ({type(error).__name__})") from None


def _s3(_location: Location, variables: Variables) -> tuple[str, dict[str, Any]]:
    """Endpoint and obstore's configuration."""
    profile = variables.get("AWS_PROFILE", "default")
    credentials = _ini(variables.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), profile)
    settings = _ini(
        variables.get("AWS_CONFIG_FILE", "~/.aws/config"), profile if profile == "default" else f"profile {profile}"
    )
    endpoint = (
        variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL") or variables.get("AWS_ENDPOINT")
    )
    if not endpoint and (host := variables.get("S3_ENDPOINT")):
        endpoint = host if "://" in host else f"http{'s' * (variables.get('S3_USE_HTTPS', '1') != '0')}://{host}"
    named = "AWS_REGION", "AWS_DEFAULT_REGION", "S3_REGION"
    region = next(filter(None, map(variables.get, named)), settings.get("region", "us-east-1"))
    options: dict[str, Any] = {"region": region}
    given: Variables = (
        {
            "aws_access_key_id": variables.get("AWS_ACCESS_KEY_ID", ""),
            "aws_secret_access_key": variables.get("AWS_SECRET_ACCESS_KEY", ""),
            "aws_session_token": variables.get("AWS_SESSION_TOKEN", ""),
        }
        if any(map(variables.get, _AWS_SOURCES))
        else credentials
    )
    options |= {
        name: given[f"aws_{name}"]
        for name in ("access_key_id", "secret_access_key", "session_token")
        if given.get(f"aws_{name}")
    }
    if endpoint:
        options["endpoint"] = endpoint
    if _is_set(variables, "S3_USE_VIRTUAL_BUCKET") or _is_set(variables, "S3_USER_VIRTUAL_BUCKET"):
        options["virtual_hosted_style_request"] = True
    if _is_set(variables, "awsAnonymousCredential"):
        options["skip_signature"] = True
    return endpoint or "", options


def _google(_location: Location, variables: Variables) -> tuple[str, dict[str, Any]]:
    endpoint = variables.get("GOOGLE_BASE_URL", "")
    if not endpoint and (host := variables.get("STORAGE_EMULATOR_HOST")):
        # Where Google's own clients look for an emulator, which has no accounts.
        endpoint = host if "://" in host else f"http://{host}"
        return endpoint, {"base_url": endpoint, "skip_signature": True}
    return endpoint, {"base_url": endpoint} if endpoint else {}


def _azure(location: Location, variables: Variables) -> tuple[str, dict[str, Any]]:
    options: dict[str, Any] = {}
    if location.account:
        options["account_name"] = location.account
    if location.query:
        options["sas_key"] = location.query
    for name in ("tenant_id", "client_id", "client_secret"):
        # The first is KServe's.
        if text := variables.get(f"AZ_{name.upper()}") or variables.get(f"AZURE_{name.upper()}"):
            options[name] = text
    if _is_set(variables, "AZURE_STORAGE_USE_EMULATOR"):
        return "http:", options
    return variables.get("AZURE_STORAGE_ENDPOINT") or variables.get("AZURE_ENDPOINT", ""), options


def _variables(environ: Variables) -> dict[str, str]:
    """The environment, and in it what KServe puts into one variable; an empty variable counts as unset."""
    variables = {name: text for name, text in environ.items() if text}
    for name in ("STORAGE_CONFIG", "STORAGE_OVERRIDE_CONFIG"):
        try:
            given = json.loads(variables.get(name, "{}"))
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise StoreError("denied", f"the variable {name} holds no JSON object")
        variables |= {ours: str(given[key]) for key, ours in _OF_STORAGE_CONFIG.items() if given.get(key)}
    return variables


def _is_set(variables: Variables, name: str) -> bool:
    return variables.get(name, "").lower() in ("1", "true")


def _ini(path: str, section: str) -> Variables:
    """A section of one of AWS's files; empty if it is missing."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(Path(path).expanduser())
    except RuntimeError:
        # A user without a home.
        return {}
    except (configparser.Error, OSError, ValueError):
        raise StoreError("denied", f"{path} cannot be read") from None
    return dict(parser[section]) if parser.has_section(section) else {}


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StoreError("denied", f"the certificates in {path} cannot be read: {error.strerror}") from None
