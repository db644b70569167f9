"""This service with the shipped models, as `make serve` starts it."""

from benchmarks.servers import Route, Server

CLOTHING = "/v1/models/clothing:predict"
ROUTES = {
    "json": Route(CLOTHING, "v1_json"),
    "v2_binary": Route("/v2/models/clothing/infer", "v2_binary"),
    "png": Route(CLOTHING, "png"),
    "jpeg": Route(CLOTHING, "jpeg"),
}

SERVER = Server(
    title="Fitting Room",
    command=("-m", "service", "--port", "{port}", "--workers", "{workers}"),
    routes=ROUTES,
)
