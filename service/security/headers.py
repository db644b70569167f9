"""Security headers of pages: what a browser may do with them. (Content Security Policy Level 3, W3C)"""

from flask import Flask
from flask import Response as FlaskResponse

# Everything comes from this service, and a page contains no script itself: one in a label or a model card does not run,
# and sends nothing anywhere. blob: and data: are pictures that the page makes.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
OF_PAGES = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}


def register(app: Flask) -> None:
    """Add them to each page. X-Content-Type-Options is in every response of the server."""

    @app.after_request
    def protect(response: FlaskResponse) -> FlaskResponse:
        if response.mimetype == "text/html":
            response.headers.update(OF_PAGES)
        return response
