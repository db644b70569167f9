"""The Flask service: `create_app` wires everything, once."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from service.runtime.shared_memory import SharedMemory
    from service.settings import Settings


def create_app(settings: "Settings", memory: "SharedMemory | None" = None, slot: int = 0) -> "Flask":
    """The app with its routes. Nothing is loaded until `app.extensions["watcher"]` is started or scans.

    `memory`: what the worker processes share, each with a slot of it. None for a process that is alone.
    """
    # Imported here, in the worker process: what a worker needs (NumPy, LiteRT, Pillow) must neither slow down nor
    # fatten the process that only watches over it.
    from functools import partial

    from flask import Flask
    from prometheus_client import CollectorRegistry
    from werkzeug.routing import BaseConverter

    from service.api import flask_views, pages
    from service.api import operations as ops
    from service.api.playground import views as playground
    from service.api.v1 import views as v1
    from service.api.v2 import views as v2
    from service.drift.watch import DriftWatch
    from service.engines.loading import load_engine
    from service.engines.tensorflow import op_libraries
    from service.inference import context
    from service.inference.batching import BatchLimits
    from service.inference.health import Health, Tolerance
    from service.inference.infer import Inference
    from service.inference.loop_watchdog import LoopWatchdog
    from service.lifecycle.loader import Loader
    from service.lifecycle.policies import policy_file
    from service.lifecycle.registry import Registry
    from service.lifecycle.repository import Repository
    from service.lifecycle.version_records import VersionRecords
    from service.lifecycle.watcher import Watcher
    from service.lifecycle.workers import Agreement, Board
    from service.metrics.definitions import BatchMetrics, Metrics, scrape_page
    from service.observability.records import Records
    from service.runtime.shared_memory import SharedMemory
    from service.runtime.shared_values import Values
    from service.security import headers
    from service.security.api_keys import ApiKeys, key_file
    from service.security.rate_limit import RateLimits
    from service.server.fast_dispatch import ShortRoad

    class NameConverter(BaseConverter):
        """A model's name ends where a verb begins."""

        regex = "[^/:]+"

    memory = memory or SharedMemory()
    values = Values(memory)
    registry = Registry()
    board = Board(memory, slot)
    agreement = Agreement(registry, board)
    others_listen = partial(memory.others_listen, slot) if settings.workers > 1 else lambda: True
    version_records = VersionRecords(memory, slot, others_listen)
    metrics = Metrics(CollectorRegistry(), memory, slot)
    limits = BatchLimits(settings.max_batch_size, timeout_seconds=settings.batch_timeout_micros / 1e6)
    # Without a limit clients may still ask for one.
    tolerance = Tolerance(settings.unhealthy_after, (settings.request_timeout_ms or 30_000) / 1000)
    libraries = op_libraries.parse(settings.op_libraries)
    preparation = Loader(
        lambda path, config: version_records.marked(load_engine(path, config, settings.engine, libraries)),
        lambda model, version: BatchMetrics(metrics, model, version),
        limits,
        DriftWatch(settings.drift_window, memory).watch,
        lambda model, version: Health(f"{model} version {version}", tolerance, metrics.health_of(model, version)),
    )
    repository = Repository(settings.models, settings.model_name, board.is_first)
    watcher = Watcher(
        repository,
        registry,
        preparation,
        settings.poll_seconds,
        policy_file(settings, values),
        agreement,
        on_failure=lambda model, version: metrics.load_failures.labels(model, str(version)).inc(),
        records=version_records,
    )
    rate_limits = RateLimits(memory, slot)
    api_keys = (
        ApiKeys(key_file(settings, rate_limits, values), settings.poll_seconds) if settings.api_keys_file else None
    )

    app = Flask(__name__, static_folder=None)
    # The server has limited the body; within it a text may be as long as a file.
    app.config["MAX_FORM_MEMORY_SIZE"] = None
    # Paths are as written; else //a is answered by a redirect to /a.
    app.url_map.merge_slashes = False
    app.url_map.converters["name"] = NameConverter
    app.extensions["settings"] = settings
    app.extensions["watcher"] = watcher
    app.extensions["registry"] = registry
    app.extensions["agreement"] = agreement
    app.extensions["metrics"] = metrics
    app.extensions["api_keys"] = api_keys
    app.extensions["records"] = records = Records(settings, metrics)
    app.extensions["rate_limits"] = rate_limits
    app.extensions["version_records"] = version_records
    context.register(app, metrics)
    flask_views.register(app)
    headers.register(app)

    def end_process() -> None:
        version_records.end_in_order()
        records.end_process()

    loop_watchdog = LoopWatchdog(
        lambda loaded: agreement.keep_off_loops(loaded.model, loaded.version), end_process=end_process
    )
    app.extensions["loop_watchdog"] = loop_watchdog
    inference = Inference(registry, metrics, loop_watchdog, records.capture)
    app.extensions["short_road"] = ShortRoad(inference, settings, metrics)
    app.register_blueprint(v1.blueprint(inference, settings))
    page = scrape_page(metrics, registry, api_keys)
    app.register_blueprint(v2.blueprint(inference, settings, watcher, page))
    app.register_blueprint(ops.blueprint(registry, page))
    app.register_blueprint(pages.blueprint())
    app.register_blueprint(playground.blueprint(inference, repository, settings))
    return app
