"""The container's HEALTHCHECK: is the service ready? Exits 1 with the reason, which `docker inspect` shows.

http.client, not urllib: a proxy in the environment must not be asked about this machine's own port.
"""

import http.client
import os
import sys

# Health may have a port of its own, where it needs no key. An empty variable counts as unset.
port = int(os.environ.get("SERVING_OPERATIONS_PORT") or 0) or int(os.environ.get("SERVING_PORT") or 8501)
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
try:
    connection.request("GET", "/v2/health/ready")
    answer = connection.getresponse()
    body = answer.read().decode(errors="replace")
except OSError as error:
    sys.exit(f"127.0.0.1:{port} does not answer: {error}")
if answer.status != 200:
    sys.exit(f"{answer.status}: {body}")
