from pathlib import Path

from flask import Flask, Response

from service import create_app
from service.security import headers as security_headers
from tests.unit.service.fakes import FakeService, patient_settings

STRICT = {"default-src 'none'", "script-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"}


def test_page_runs_only_our_scripts_and_cannot_be_framed() -> None:
    app = Flask(__name__)
    security_headers.register(app)
    app.add_url_rule("/page", "page", lambda: Response("<p>", content_type="text/html; charset=utf-8"))
    app.add_url_rule("/text", "text", lambda: Response("<p>", content_type="text/plain"))
    headers = app.test_client().get("/page").headers
    policy = headers["Content-Security-Policy"].split("; ")
    assert set(policy) >= STRICT
    assert not [directive for directive in policy if "unsafe" in directive or "*" in directive]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "Content-Security-Policy" not in app.test_client().get("/text").headers


def test_page_of_the_service_has_them(tmp_path: Path) -> None:
    assert "Content-Security-Policy" in FakeService(create_app(patient_settings(tmp_path))).get("/").headers
