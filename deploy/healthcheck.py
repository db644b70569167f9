"""The container's HEALTHCHECK: is the service ready? Exits 1 with the reason, which `docker inspect` shows.

http.client, not urllib: a proxy in the environment must not be asked about this machine's own port.
"""

import http.client
import os
import ssl
import sys


def port_of(variable: str) -> int:
    """0 where it is unset: empty, or the address of a Service, as Kubernetes sets it."""
    text = os.environ.get(variable, "")
    return 0 if "://" in text else int(text or 0)


# Health may have a port of its own, where it needs no key.
port = port_of("SERVING_OPERATIONS_PORT") or port_of("SERVING_PORT") or 8501
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
if os.environ.get("SERVING_TLS_CERT"):
    # Its certificate is for another name than this one.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=4, context=context)
try:
    connection.request("GET", "/v2/health/ready")
    answer = connection.getresponse()
    body = answer.read().decode(errors="replace")
except (ssl.SSLError, http.client.RemoteDisconnected) as error:
    # Without a certificate as its clients need it: that it says so is all that can be told.
    sys.exit(0 if os.environ.get("SERVING_TLS_CLIENT_CA") else f"127.0.0.1:{port} does not answer: {error}")
except OSError as error:
    sys.exit(f"127.0.0.1:{port} does not answer: {error}")
if answer.status != 200:
    sys.exit(f"{answer.status}: {body}")
