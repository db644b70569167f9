"""This service with its two smallest models, as `make serve` starts it."""

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
    prepare=("-m", "benchmarks.first_models", "{folder}"),
    command=("-m", "service", "--port", "{port}", "--workers", "{workers}", "--models", "{folder}"),
    routes=ROUTES,
)
