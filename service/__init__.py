"""The Flask service: `create_app` wires everything, once."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from service.settings import Settings


def create_app(settings: "Settings") -> "Flask":
    """The app with its routes. Nothing is loaded until `app.extensions["watcher"]` is started or scans."""
    # Imported here, in the worker process: what a worker needs (NumPy, LiteRT, Pillow) must neither slow down nor
    # fatten the process that only watches over it, and prometheus_client looks at its environment when imported.
    from flask import Flask
    from prometheus_client import CollectorRegistry
    from werkzeug.routing import BaseConverter

    from service import calls, errors
    from service.api import ops, v1
    from service.batcher import Batcher, BatchLimits
    from service.engines import load_engine
    from service.inference import Inference
    from service.metrics import BatchMetrics, Metrics, scrape_registry
    from service.registry import Registry
    from service.repository import Repository
    from service.short_road import ShortRoad
    from service.watcher import Watcher

    class NameConverter(BaseConverter):
        """A model's name ends where a verb begins."""

        regex = "[^/:]+"

    registry = Registry()
    metrics = Metrics(CollectorRegistry())
    limits = BatchLimits(settings.max_batch_size, timeout_seconds=settings.batch_timeout_micros / 1e6)
    watcher = Watcher(
        Repository(settings.models, settings.model_name),
        registry,
        lambda on_disk, config: load_engine(on_disk.path, config, settings.engine),
        lambda model, version, engine: Batcher(
            engine.run, engine.signatures, limits, BatchMetrics(metrics, model, version)
        ),
        settings.poll_seconds,
    )

    app = Flask(__name__, static_folder=None)
    # The server has limited the body; within it a text may be as long as a file.
    app.config["MAX_FORM_MEMORY_SIZE"] = None
    app.url_map.converters["name"] = NameConverter
    app.extensions["settings"] = settings
    app.extensions["watcher"] = watcher
    app.extensions["registry"] = registry
    app.extensions["metrics"] = metrics
    calls.register(app, metrics)
    errors.register(app)
    inference = Inference(registry, metrics)
    app.extensions["short_road"] = ShortRoad(inference, settings, metrics)
    app.register_blueprint(v1.blueprint(inference, settings))
    app.register_blueprint(ops.blueprint(registry, scrape_registry(metrics, registry)))
    return app
