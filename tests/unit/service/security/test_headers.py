from tests.unit.service.fakes import FakeService

STRICT = {"default-src 'none'", "script-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"}


def test_page_runs_only_our_scripts_and_cannot_be_framed(service: FakeService) -> None:
    headers = service.get("/").headers
    policy = headers["Content-Security-Policy"].split("; ")
    assert set(policy) >= STRICT
    assert not [directive for directive in policy if "unsafe" in directive or "*" in directive]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "Content-Security-Policy" not in service.get("/v1/models").headers
