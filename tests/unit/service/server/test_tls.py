import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.server.tls import InvalidTls, tls
from service.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    for name in ("a", "b"):
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
        command = ["openssl", "req", "-x509", *new, "-out", f"{name}.pem", "-subj", f"/CN={name}"]
        subprocess.run(command, cwd=made, check=True, capture_output=True)
    (made / "text").write_text("no certificate")
    return made


def test_none_without_a_certificate() -> None:
    assert tls(Settings()) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cert": "a.pem"}, "SERVING_TLS_CERT needs SERVING_TLS_KEY"),
        ({"key": "a.key"}, "SERVING_TLS_KEY=.* needs SERVING_TLS_CERT"),
        ({"client_ca": "a.pem"}, "SERVING_TLS_CLIENT_CA=.* needs SERVING_TLS_CERT"),
        ({"cert": "a.pem", "key": "b.key"}, "SERVING_TLS_CERT=.* is no certificate that goes with its key"),
        ({"cert": "text", "key": "a.key"}, "SERVING_TLS_CERT=.* is no certificate"),
        ({"cert": "no.pem", "key": "a.key"}, "SERVING_TLS_CERT=.* cannot be read: No such file"),
        ({"cert": "a.pem", "key": "a.key", "client_ca": "text"}, "SERVING_TLS_CLIENT_CA=.* is no certificate"),
    ],
)
def test_files_that_do_not_fit_are_named(folder: Path, settings: dict[str, str], words: str) -> None:
    given: dict[str, Any] = {f"tls_{name}": str(folder / file) for name, file in settings.items()}
    with pytest.raises(InvalidTls, match=words):
        tls(replace(Settings(), **given))


def test_changed_files_are_read_again_while_they_fit(folder: Path, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes((folder / "a.pem").read_bytes())
    key.write_bytes((folder / "a.key").read_bytes())
    secured = tls(Settings(tls_cert=str(cert), tls_key=str(key)))
    assert secured is not None
    first = secured.latest
    secured.poll()
    assert secured.latest is first
    cert.write_bytes((folder / "b.pem").read_bytes())
    secured.poll()
    assert secured.latest is first
    key.write_bytes((folder / "b.key").read_bytes())
    secured.poll()
    assert secured.latest is not first
