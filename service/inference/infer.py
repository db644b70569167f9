"""infer(): the only road to a model, whatever the protocol; checks, times, counts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter, thread_time

import numpy as np

from service.errors import InvalidRequest
from service.http import Response
from service.inference.batching import Arrays, Run, TickBatcher, has_rows, row_count
from service.inference.context import Prediction, RequestContext
from service.inference.loop_watchdog import LoopWatchdog
from service.inference.pace import SLOW_SECONDS
from service.inference.scores import Inferred, relative_scores
from service.inference.shadow import Mirror
from service.inference.version import LoadedVersion
from service.lifecycle.registry import Registry
from service.metrics.definitions import Metrics, ShadowMetrics
from service.observability.capture import Capture
from service.tensors.dtypes import Array, check_shape
from service.tensors.signature import DEFAULT_SIGNATURE, Signature

# A request with more rows than a version runs together, run in parts: a run takes memory for each of its rows.


def run_in_batches(
    run: Callable[[Arrays], dict[str, Array]],
    inputs: Arrays,
    rows: int,
    max_rows: int,
    context: RequestContext,
    contradict: Callable[[], None],
) -> dict[str, Array]:
    """What `run`, which notes its time in the call, gives for all rows. Others take their turn between the parts, and
    what nobody waits for any more ends with the part that is run. `contradict` is told where the outputs do not have a
    row for each of the inputs' rows; then all are run at once."""
    parts = []
    began = seconds = 0.0
    for first in range(0, rows, max_rows):
        outputs = run({name: array[first : first + max_rows] for name, array in inputs.items()})
        began = began or context.run_began
        seconds += context.run_seconds
        if not has_rows(outputs, min(max_rows, rows - first)):
            contradict()
            return run(inputs)
        context.ran(began, seconds, max_rows)
        parts.append(outputs)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


_NOT_RUN = RuntimeError("not run")


class Inference:
    def __init__(
        self,
        registry: Registry,
        metrics: Metrics,
        loop_watchdog: LoopWatchdog | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.registry = registry
        self._metrics = metrics
        self._loop_watch = loop_watchdog or LoopWatchdog()
        self._capture = capture
        self.mirror = Mirror(
            lambda loaded, name, inputs: self.infer(loaded, name, inputs, RequestContext()).outputs,
            ShadowMetrics(metrics),
        )

    def answer(self, prediction: Prediction) -> Response:
        """Raises ServingError."""
        inferred = self.infer(prediction.loaded, prediction.signature_name, prediction.inputs, prediction.context)
        prediction.context.inferred()
        return prediction.encode(inferred)

    def try_out(self, prediction: Prediction) -> Response:
        """What `answer` gives, for a person who tries out a model: it is neither a prediction nor drift, and neither a
        shadow nor the captured requests see it. Its metric is one of its own, so that nobody can hide here. For
        threads."""
        loaded, context = prediction.loaded, prediction.context
        self.note_tried_out(loaded)
        check_inputs(loaded.signature(prediction.signature_name), prediction.inputs)
        run_name = loaded.signature_to_run(prediction.signature_name)

        def run(inputs: Arrays) -> dict[str, Array]:
            context.check_deadline()
            return loaded.health.run(loaded.engine.run, run_name, inputs)

        outputs = _run_or_split(loaded, run_name, run, prediction.inputs, context)
        return prediction.encode(_separated(loaded, prediction.signature_name, outputs))

    def note_tried_out(self, loaded: LoadedVersion) -> None:
        self._metrics.tried_out.labels(loaded.model, loaded.version_text).inc()

    def infer(self, loaded: LoadedVersion, signature_name: str, inputs: Arrays, context: RequestContext) -> Inferred:
        """Every output of the signature; for threads.

        Raises:
            InvalidRequest: an input is missing, unknown or of a wrong shape, or the model refuses its values.
            DeadlineExceeded: nobody waits any more.
        """
        check_inputs(loaded.signature(signature_name), inputs)
        run_name = loaded.signature_to_run(signature_name)
        run = partial(self._run_in_thread, loaded, run_name, context)
        outputs = _run_or_split(loaded, run_name, run, inputs, context)
        return self._inferred(loaded, signature_name, inputs, outputs, context)

    def _run_in_thread(
        self, loaded: LoadedVersion, run_name: str, context: RequestContext, inputs: Arrays
    ) -> dict[str, Array]:
        deadline = context.deadline
        if deadline is not None:
            deadline.check()
            deadline.on_expired = partial(loaded.health.deadline_passed, deadline)
        try:
            # What is quick waits for no others.
            if loaded.batcher is None or loaded.pace.is_quick:
                if deadline is not None:
                    deadline.runs(perf_counter(), row_count(inputs) or 1)
                return self._run(loaded, loaded.run_in_thread, run_name, inputs, context)
            rows = loaded.batcher.run(run_name, inputs, deadline)
            context.ran(rows.run_began, rows.run_seconds, rows.batch_size)
            return rows.outputs()
        finally:
            if deadline is not None:
                deadline.run_began = 0.0

    def infer_together(self, predictions: Sequence[Prediction]) -> list[Inferred | Exception]:
        """For each what `infer` gives or raises, for the event loop. Those of a version that gains by it are run as
        batches."""
        try:
            return self._infer_together(predictions)
        finally:
            self._loop_watch.running = None

    def _infer_together(self, predictions: Sequence[Prediction]) -> list[Inferred | Exception]:
        cpu_began = thread_time()
        outcomes: list[Inferred | Exception] = []
        batches: dict[TickBatcher, list[int]] = {}
        for place, prediction in enumerate(predictions):
            loaded, name, inputs = prediction.loaded, prediction.signature_name, prediction.inputs
            try:
                check_inputs(loaded.signature(name), inputs)
                if loaded.tick_batcher is None:
                    self._loop_watch.running = prediction
                    run_name, context = loaded.signature_to_run(name), prediction.context
                    outputs = self._run(loaded, loaded.engine.run, run_name, inputs, context)
                    if context.run_seconds > SLOW_SECONDS:
                        loaded.pace.held_up(context.run_seconds, thread_time() - cpu_began)
                    outcomes.append(self._inferred(loaded, name, inputs, outputs, context))
                else:
                    outcomes.append(_NOT_RUN)
                    batches.setdefault(loaded.tick_batcher, []).append(place)
            except Exception as error:
                outcomes.append(error)
        for batcher, places in batches.items():
            together = [predictions[place] for place in places]
            self._loop_watch.running = together[0]
            ran = batcher.run([(one.loaded.signature_to_run(one.signature_name), one.inputs) for one in together])
            if (seconds := max(rows.run_seconds for rows in ran)) > SLOW_SECONDS:
                together[0].loaded.pace.held_up(seconds, thread_time() - cpu_began)
            for place, one, rows in zip(places, together, ran, strict=True):
                one.context.ran(rows.run_began, rows.run_seconds, rows.batch_size)
                outcomes[place] = (
                    rows.outcome
                    if isinstance(rows.outcome, Exception)
                    else self._inferred(one.loaded, one.signature_name, one.inputs, rows.outcome, one.context)
                )
        return outcomes

    def _run(
        self, loaded: LoadedVersion, run: Run, run_name: str, inputs: Arrays, context: RequestContext
    ) -> dict[str, Array]:
        count = row_count(inputs) or 1
        began = perf_counter()
        try:
            outputs = run(run_name, inputs)
        finally:
            context.ran(began, perf_counter() - began, count)
        self._metrics.of_batch(loaded.model, loaded.version).observe(count)
        return outputs

    def _inferred(
        self, loaded: LoadedVersion, signature_name: str, inputs: Arrays, outputs: Arrays, context: RequestContext
    ) -> Inferred:
        """`outputs`: of the signature that was run."""
        self._metrics.of_inference(loaded.model, loaded.version, loaded.engine.name).observe(context.run_seconds)
        inferred = _separated(loaded, signature_name, outputs)
        outputs = inferred.outputs
        if inferred.outlier_scores:
            self._metrics.of_outlier_scores(loaded.model, loaded.version).record(inferred.outlier_scores)
        if (label_scores := loaded.label_scores(signature_name, outputs)) is not None:
            self._metrics.of_predictions(loaded.model, loaded.version).record(loaded.config.labels, label_scores)
        if loaded.drift is not None:
            loaded.drift.observe(
                signature_name, inputs, _with_label_scores(loaded, signature_name, outputs, label_scores)
            )
        if loaded.shadow is not None:
            self.mirror.offer(loaded.shadow, loaded, signature_name, inputs, outputs)
        # A shadow's call has no protocol: nobody has asked it.
        if self._capture is not None and context.protocol:
            self._capture.offer(context, loaded, signature_name, inputs, outputs)
        return inferred


def _run_or_split(
    loaded: LoadedVersion,
    run_name: str,
    run: Callable[[Arrays], dict[str, Array]],
    inputs: Arrays,
    context: RequestContext,
) -> dict[str, Array]:
    """The rows as they came; in parts where there are more than the version runs together."""
    rows = row_count(inputs) or 1
    if not loaded.runs_in_batches(run_name, rows):
        return run(inputs)
    contradict = partial(loaded.independence.contradict, run_name)
    return run_in_batches(run, inputs, rows, loaded.limits.max_batch_size, context, contradict)


def _separated(loaded: LoadedVersion, signature_name: str, outputs: Arrays) -> Inferred:
    """`outputs`: of the signature that was run, which may be that with the outlier score."""
    score = loaded.config.outlier_score
    if score is None or signature_name not in (DEFAULT_SIGNATURE, score.signature):
        return Inferred(outputs)
    scores = relative_scores(outputs[score.output], score.threshold)
    if signature_name == DEFAULT_SIGNATURE:
        outputs = {name: array for name, array in outputs.items() if name != score.output}
    return Inferred(outputs, scores)


def _with_label_scores(
    loaded: LoadedVersion, signature_name: str, outputs: Arrays, label_scores: Array | None
) -> Arrays:
    """Where two labels share one probability, a score for each in its place."""
    name = loaded.label_output(signature_name)
    if name is None or label_scores is None or label_scores is outputs[name]:
        return outputs
    return {**outputs, name: label_scores}


def check_inputs(signature: Signature, inputs: Arrays) -> None:
    """Raises InvalidRequest where one is missing, unknown or of a shape that the signature does not take."""
    if inputs.keys() != signature.inputs.keys():
        if unknown := sorted(inputs.keys() - signature.inputs.keys()):
            raise InvalidRequest(f"unknown input {_names(unknown)}; expected {_names(signature.inputs)}")
        missing = sorted(signature.inputs.keys() - inputs.keys())
        raise InvalidRequest(f"missing input {_names(missing)}; expected {_names(signature.inputs)}")
    for name, array in inputs.items():
        check_shape(name, array, signature.inputs[name])


def _names(names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(map(repr, names))
