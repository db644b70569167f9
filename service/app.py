"""The service, wired: `create_app` builds everything, once."""

from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path

from flask import Flask

from service.api import operations, pages, sagemaker
from service.api.flask_app import create_flask
from service.api.grpc import health as grpc_health
from service.api.grpc import profiler as grpc_profiler
from service.api.grpc import v1 as grpc_v1
from service.api.grpc import v2 as grpc_v2
from service.api.playground import views as playground
from service.api.routes import Match, table_of
from service.api.v1 import feedback as v1_feedback
from service.api.v1 import views as v1
from service.api.v1.decode import decode_example
from service.api.v2 import views as v2
from service.drift.monitor import DriftMonitor
from service.drift.snapshots import Snapshots
from service.engines.base import LoadOptions
from service.engines.loading import load_engine
from service.feedback.answers import Answers
from service.feedback.feedback import Feedback
from service.feedback.lines import FeedbackFiles
from service.feedback.observed import Observed
from service.inference.batching import BatchLimits
from service.inference.health import Health, Tolerance
from service.inference.infer import Inference
from service.inference.loop_watchdog import LoopWatchdog
from service.inference.picture_memory import PictureMemory
from service.lifecycle.loader import Loader, Retries
from service.lifecycle.model_server_config import config_file
from service.lifecycle.policies import policy_file
from service.lifecycle.policy_source import PolicySource
from service.lifecycle.registry import Registry
from service.lifecycle.repository import Repository
from service.lifecycle.version_records import VersionRecords
from service.lifecycle.watcher import MAX_PAUSE_SECONDS, Watcher
from service.lifecycle.workers import Agreement, Board
from service.metrics.definitions import BatchMetrics, Metrics, scrape_page
from service.observability.records import Records
from service.runtime.fetching import first_fetch_is_over
from service.runtime.shared_memory import SharedMemory
from service.runtime.shared_values import Values
from service.security.api_keys import ApiKeys, key_file
from service.security.rate_limit import RateLimits
from service.server.admission import Admission, Admit, admit_operations, with_metrics_at
from service.server.dispatch import Address, Decode, Dispatcher
from service.settings import Settings, parse_files


@dataclass(frozen=True)
class App:
    """The service in one process, wired. `admits`: for the main port, and for that of operations if there is one."""

    settings: Settings
    flask: Flask
    dispatcher: Dispatcher
    admits: tuple[Admit, ...]
    registry: Registry
    watcher: Watcher
    agreement: Agreement
    metrics: Metrics
    records: Records
    api_keys: ApiKeys | None
    loop_watchdog: LoopWatchdog
    snapshots: Snapshots | None
    version_records: VersionRecords


def create_app(settings: Settings, memory: SharedMemory | None = None, slot: int = 0) -> App:
    """The service with its routes. Nothing is loaded until its watcher is started or scans.

    `memory`: what the worker processes share, each with a slot of it. None for a process that is alone.
    """
    memory = memory or SharedMemory()
    values = Values(memory)
    metrics = Metrics(memory=memory, slot=slot)
    records = Records(settings, metrics)

    # Loading versions
    registry = Registry()
    board = Board(memory, slot)
    agreement = Agreement(registry, board)
    others_listen = partial(memory.others_listen, slot) if settings.workers > 1 else lambda: True
    version_records = VersionRecords(memory, slot, others_listen)
    limits = BatchLimits(settings.max_batch_size, timeout_seconds=settings.batch_timeout_micros / 1e6)
    # Without a limit clients may still ask for one.
    tolerance = Tolerance(settings.unhealthy_after, (settings.request_timeout_ms or 30_000) / 1000)
    options = LoadOptions(
        parse_files(settings.op_libraries),
        tuple(settings.saved_model_tags.split(",")),
        settings.tensorflow_intra_op_parallelism,
        settings.tensorflow_inter_op_parallelism,
        settings.prefer_tflite,
    )
    loader = Loader(
        lambda path, config: version_records.marked(load_engine(path, config, settings.engine, options)),
        lambda model, version: BatchMetrics(metrics, model, version),
        limits,
        decode_example,
        DriftMonitor(settings.drift_window, memory).watch,
        lambda model, version: Health(f"{model} version {version}", tolerance, metrics.health_of(model, version)),
        settings.independent_rows,
        settings.warm_up,
    )
    # The files of policies are polled at a pace of their own.
    tick_seconds = min(settings.poll_seconds or MAX_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
    disk_pause_seconds = 0 if settings.poll_seconds == tick_seconds else settings.poll_seconds or inf
    repository = Repository(Path(settings.models), settings.model_name, board.is_first, disk_pause_seconds)
    check = partial(registry.check_labels, allow_unavailable=settings.allow_version_labels_for_unavailable_models)
    file = config_file(settings, values, check) if settings.model_config_file else policy_file(settings, values)
    watcher = Watcher(
        repository,
        registry,
        loader,
        tick_seconds,
        PolicySource(file, values),
        agreement,
        on_failure=lambda model, version: metrics.load_failures.labels(model, str(version)).inc(),
        on_policies=lambda policies: records.captures.follow(policies.captures),
        check_reload=check,
        retries=Retries(
            max_retries=None if settings.load_retries < 0 else settings.load_retries,
            pause_seconds=settings.load_retry_interval_micros / 1e6,
        ),
        loaders=settings.loaders or None,
        records=version_records,
        may_begin=lambda: first_fetch_is_over(values),
    )

    # Running them
    def end_process() -> None:
        version_records.end_in_order()
        records.end_process()

    loop_watchdog = LoopWatchdog(
        lambda loaded: agreement.keep_off_loops(loaded.model, loaded.version), end_process=end_process
    )
    remember = observed = feedback = None
    if rows := settings.feedback_requests:
        answers, observed = Answers(rows, memory, slot, settings.workers or 1), Observed(rows, memory)
        remember = answers.remember
        files = FeedbackFiles(settings.capture_max_bytes, metrics.capture_dropped.labels().inc)
        feedback = Feedback(answers, observed, metrics, files, records.captures.file_of, rows)
    inference = Inference(metrics, loop_watchdog, records.captures.offer, remember)

    # Admitting requests, and responding to them
    table = table_of(settings)
    rate_limits = RateLimits(memory)
    api_keys = (
        ApiKeys(key_file(settings.api_keys_file, settings.rate_limit, rate_limits, values), tick_seconds)
        if settings.api_keys_file
        else None
    )
    limit_of_all = rate_limits.of("", settings.rate_limit) if api_keys is None else None
    admission = Admission(metrics, api_keys, limit_of_all, not settings.operations_port, table)
    page = scrape_page(metrics, registry, api_keys, observed, has_tensorflow_names=settings.tensorflow_metrics)
    picture_memory = PictureMemory(settings.max_decoding_bytes)
    flask = create_flask(
        {
            **v1.views(registry),
            **v2.views(registry, settings, watcher, page),
            **operations.views(page),
            **pages.views(),
            **playground.views(registry, inference, repository, settings, picture_memory),
            **sagemaker.views(registry, settings, watcher),
        },
        table.routes,
    )
    decode_v1 = partial(v1.decode, settings, picture_memory)
    decoders: dict[str, Decode] = {
        "v1": decode_v1,
        "v2": v2.decode,
        "playground": decode_v1,
        "grpc_v1": partial(grpc_v1.decode, settings.grpc_tensor_content),
        "grpc_v2": grpc_v2.decode,
        "sagemaker": partial(sagemaker.decode, decode_v1),
        "vertex_ai": decode_v1,
    }
    default_model = partial(registry.default_model, settings.default_model)
    addresses: dict[str, Address] = {
        "grpc_v1": grpc_v1.address,
        "grpc_v2": grpc_v2.address,
        "sagemaker": partial(sagemaker.address, default_model),
        "vertex_ai": lambda match, _request: Match(match.route, match.parameters, default_model()),
    }
    methods = {
        **v1_feedback.methods(registry, feedback),
        **grpc_v1.methods(registry, inference, settings, watcher),
        **grpc_v2.methods(registry, settings, watcher, page),
        **grpc_health.methods(registry, settings.grpc_reflection),
        **grpc_profiler.methods(registry, records.profiler),
    }
    dispatcher = Dispatcher(settings, registry, inference, metrics, flask, decoders, addresses, methods, table)
    admits: tuple[Admit, ...] = (admission.admit, partial(admit_operations, table))
    if settings.metrics_path:
        admits = tuple(with_metrics_at(admit, settings.metrics_path) for admit in admits)
    return App(
        settings=settings,
        flask=flask,
        dispatcher=dispatcher,
        admits=admits,
        registry=registry,
        watcher=watcher,
        agreement=agreement,
        metrics=metrics,
        records=records,
        api_keys=api_keys,
        loop_watchdog=loop_watchdog,
        snapshots=Snapshots(Path(settings.drift_snapshots), registry.loaded) if settings.drift_snapshots else None,
        version_records=version_records,
    )
