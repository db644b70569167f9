"""This service with its two smallest models."""

from benchmarks.servers import Route, Server

CLOTHING = "/v1/models/clothing:predict"
ROUTES = {
    "json": Route(CLOTHING, "v1_json"),
    "v2_binary": Route("/v2/models/clothing/infer", "v2_binary"),
    "png": Route(CLOTHING, "png"),
    "jpeg": Route(CLOTHING, "jpeg"),
}

COMMAND = ("-m", "service", "--port", "{port}", "--workers", "{workers}")
# The others turn nobody away who waits, and a request that fails ends a run: here neither, however busy the machine.
PATIENCE = ("--max-queue-ms", "10000")

SERVER = Server(
    title="Fitting Room",
    prepare=("-m", "benchmarks.first_models", "{folder}"),
    command=(*COMMAND, "--models", "{folder}", *PATIENCE),
    routes=ROUTES,
)
