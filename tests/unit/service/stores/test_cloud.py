import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.stores.cloud import connect
from service.stores.errors import StoreError
from service.stores.location import Location

S3, GOOGLE, AZURE = Location("s3", "b", "p"), Location("gs", "b"), Location("az", "c")
KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
OF_KEYS = {"access_key_id": "id", "secret_access_key": "key"}
US, EU = {"region": "us-east-1"}, {"region": "eu"}


@pytest.fixture(autouse=True)
def obstore(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that keeps what it is given; and a home without files."""
    kinds = ("S3Store", "GCSStore", "AzureStore")
    store = SimpleNamespace(**{kind: lambda bucket, **options: {"bucket": bucket, **options} for kind in kinds})
    monkeypatch.setitem(sys.modules, "obstore", SimpleNamespace(store=store))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("location", "variables", "config", "allow_http"),
    [
        (S3, {}, US, False),
        (S3, {**KEYS, "AWS_DEFAULT_REGION": "eu"}, EU | OF_KEYS, False),
        (S3, {"AWS_ENDPOINT_URL": "http://minio"}, US | {"endpoint": "http://minio"}, True),
        (S3, {"S3_ENDPOINT": "h:1", "S3_USE_HTTPS": "0", "S3_REGION": "eu"}, EU | {"endpoint": "http://h:1"}, True),
        (S3, {"S3_ENDPOINT": "minio"}, US | {"endpoint": "https://minio"}, False),
        (S3, {"S3_USE_VIRTUAL_BUCKET": "true"}, US | {"virtual_hosted_style_request": True}, False),
        (S3, {"awsAnonymousCredential": "true"}, US | {"skip_signature": True}, False),
        (S3, {"STORAGE_CONFIG": json.dumps({"type": "s3", **OF_KEYS, **EU})}, EU | OF_KEYS, False),
        (GOOGLE, {}, {}, False),
        (GOOGLE, {"STORAGE_EMULATOR_HOST": "h:1"}, {"base_url": "http://h:1", "skip_signature": True}, True),
        (AZURE, {"AZ_CLIENT_ID": "a", "AZURE_TENANT_ID": "t"}, {"client_id": "a", "tenant_id": "t"}, False),
        (AZURE, {"AZURE_STORAGE_USE_EMULATOR": "true"}, {}, True),
        (Location("az", "c", account="me", query="sig"), {}, {"account_name": "me", "sas_key": "sig"}, False),
    ],
)
def test_configuration(location: Location, variables: dict[str, str], config: Any, allow_http: bool) -> None:
    found = connect(location, variables)
    assert found["config"] == config
    assert found["client_options"]["allow_http"] == allow_http
    assert (found["bucket"], found["prefix"]) == (location.bucket, location.prefix or None)


def test_files_of_aws_are_read(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[other]\naws_access_key_id = id\naws_secret_access_key = key\n")
    (tmp_path / ".aws/config").write_text("[profile other]\nregion = eu\n")
    assert connect(S3, {"AWS_PROFILE": "other"})["config"] == EU | OF_KEYS
    assert connect(S3, {})["config"] == US


def test_certificates_and_their_check(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("PEM")
    assert connect(S3, {"AWS_CA_BUNDLE": str(tmp_path / "ca.pem")})["client_options"]["root_certificate"] == b"PEM"
    assert connect(S3, {"S3_VERIFY_SSL": "0"})["client_options"]["allow_invalid_certificates"]
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        connect(S3, {"AWS_CA_BUNDLE": "/none"})


def test_storage_config_that_is_no_json_is_refused() -> None:
    with pytest.raises(StoreError, match="STORAGE_CONFIG holds no JSON object"):
        connect(S3, {"STORAGE_CONFIG": "secret"})
