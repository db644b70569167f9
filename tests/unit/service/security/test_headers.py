from pathlib import Path

from flask import Flask, Response

from service import create_app
from service.security import headers as security_headers
from tests.unit.service.fakes import FakeService, patient_settings

STRICT = {"default-src 'none'", "script-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"}


def test_a_page_runs_only_our_scripts_and_cannot_be_framed() -> None:
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


def test_the_services_own_page_has_them_and_every_answer_is_what_it_says_it_is(tmp_path: Path) -> None:
    service = FakeService(create_app(patient_settings(tmp_path)))
    assert "Content-Security-Policy" in service.get("/").headers
    for path in ("/", "/v1/models", "/nowhere", "/static/main.js", "/metrics"):
        answer = service.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        # Other sites' pages may not read it, and it does not say what it is served by.
        assert not [name for name, _ in answer.headers if name.lower().startswith(("access-control", "server"))]
