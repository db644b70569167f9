"""infer(): the one way to a model, whatever the protocol and the thread. It checks, runs, times and counts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter, thread_time

import numpy as np

from service.errors import InvalidRequest
from service.http import Response
from service.inference.batching import Arrays, Outcome, Rows, Run, has_rows, row_count
from service.inference.context import Prediction, RequestContext
from service.inference.loop_watchdog import LoopWatchdog
from service.inference.pace import SLOW_SECONDS
from service.inference.scores import Inferred, best_labels, relative_scores
from service.inference.shadow import Mirror
from service.inference.version import LoadedVersion
from service.metrics.definitions import Metrics, ShadowMetrics
from service.tensors.dtypes import Array, check_shape
from service.tensors.signature import DEFAULT_SIGNATURE, Signature

# Runs predictions of one version: `Inference.on_loop` or `Inference.in_thread`. Raises what all of them get.
Driver = Callable[[Sequence[Prediction]], Sequence[Rows]]
# Takes a request's context, its version and signature, inputs and outputs.
Capture = Callable[[RequestContext, LoadedVersion, str, Arrays, Arrays], None]
# Takes a request's id and its version's digest, and of each row the best label's place and its score.
Remember = Callable[[str, int, Sequence[int], Sequence[float]], None]

_NOT_RUN = RuntimeError("not run")


class Inference:
    def __init__(
        self,
        metrics: Metrics,
        loop_watchdog: LoopWatchdog | None = None,
        capture: Capture | None = None,
        remember: Remember | None = None,
    ) -> None:
        self._metrics = metrics
        self._loop_watchdog = loop_watchdog or LoopWatchdog()
        self._capture = capture
        self._remember = remember
        self.mirror = Mirror(self._run_copy, ShadowMetrics(metrics))

    def predict(self, prediction: Prediction) -> Response:
        """The response to a prediction, run in this thread. Raises ServingError."""
        return self._respond(prediction, self.infer([prediction], self.in_thread))

    def try_out(self, prediction: Prediction) -> Response:
        """The same for a person who tries out a model on the page.

        It is neither a prediction nor drift, and neither a shadow nor the captured requests see it. It has a metric of
        its own, so that nobody can use a model unseen.
        """
        self.count_tried_out(prediction.loaded)
        return self._respond(prediction, self.infer([prediction], self._apart, records=False))

    def count_tried_out(self, loaded: LoadedVersion) -> None:
        self._metrics.tried_out.labels(loaded.model, loaded.version_text).inc()

    def infer(
        self, predictions: Sequence[Prediction], run: Driver, *, records: bool = True
    ) -> list[Inferred | Exception]:
        """The outputs of each prediction, or its error; in their order.

        `run`: `on_loop` on the event loop, `in_thread` in a thread. `records`: whether metrics, drift, shadows and the
        captured requests see them. Raises nothing.
        """
        outcomes: list[Inferred | Exception] = [_NOT_RUN] * len(predictions)
        by_version: dict[int, list[int]] = {}
        for index, prediction in enumerate(predictions):
            try:
                check_inputs(prediction.loaded.signature(prediction.signature_name), prediction.inputs)
            except InvalidRequest as error:
                outcomes[index] = error
            else:
                by_version.setdefault(id(prediction.loaded), []).append(index)
        for indices in by_version.values():
            try:
                all_rows = run([predictions[index] for index in indices])
            except Exception as error:
                for index in indices:
                    outcomes[index] = error
            else:
                for index, rows in zip(indices, all_rows, strict=True):
                    outcomes[index] = self._outcome(predictions[index], rows, records)
        return outcomes

    def on_loop(self, predictions: Sequence[Prediction]) -> Sequence[Rows]:
        """Driver of the event loop: one batch after the other, where the version gains by batches."""
        loaded = predictions[0].loaded
        began = thread_time()
        try:
            if loaded.tick_batcher is None:
                all_rows = []
                for prediction in predictions:
                    self._loop_watchdog.running = prediction
                    name = loaded.signature_to_run(prediction.signature_name)
                    rows = self._run(loaded, loaded.engine.run, name, prediction.inputs)
                    if rows.run_seconds > SLOW_SECONDS:
                        loaded.pace.held_up(rows.run_seconds, thread_time() - began)
                    all_rows.append(rows)
                return all_rows
            self._loop_watchdog.running = predictions[0]
            all_rows = loaded.tick_batcher.run(
                [(loaded.signature_to_run(prediction.signature_name), prediction.inputs) for prediction in predictions]
            )
            if (seconds := max(rows.run_seconds for rows in all_rows)) > SLOW_SECONDS:
                loaded.pace.held_up(seconds, thread_time() - began)
            return all_rows
        finally:
            self._loop_watchdog.running = None

    def in_thread(self, predictions: Sequence[Prediction]) -> Sequence[Rows]:
        """Driver of threads: with what other threads hold for a busy version. Raises DeadlineExceeded."""
        return [self._split(prediction, self._run_in_thread) for prediction in predictions]

    def _apart(self, predictions: Sequence[Prediction]) -> Sequence[Rows]:
        """Driver of what is not recorded: joins no batch. Raises DeadlineExceeded."""
        return [self._split(prediction, self._run_apart) for prediction in predictions]

    def _split(self, prediction: Prediction, run: Callable[[Prediction, str, Arrays], Rows]) -> Rows:
        """One prediction's rows; in batches where they are more than the version runs together, since a run takes
        memory for each. Others run between the batches, and once nobody waits for this one no more are run."""
        loaded, inputs, context = prediction.loaded, prediction.inputs, prediction.context
        name = loaded.signature_to_run(prediction.signature_name)
        count, max_rows = row_count(inputs) or 1, loaded.limits.max_batch_size
        if not loaded.runs_in_batches(name, count):
            return run(prediction, name, inputs)
        whole = Rows(name, inputs, count, None)
        parts = []
        for first in range(0, count, max_rows):
            ran = run(prediction, name, {key: array[first : first + max_rows] for key, array in inputs.items()})
            whole.note_run(whole.run_began or ran.run_began, whole.run_seconds + ran.run_seconds, max_rows)
            context.ran(whole.run_began, whole.run_seconds, max_rows)
            whole.outcome = ran.outcome
            if isinstance(ran.outcome, Exception):
                return whole
            if not has_rows(ran.outcome, min(max_rows, count - first)):
                loaded.independence.contradict(name)
                return run(prediction, name, inputs)
            parts.append(ran.outcome)
        whole.outcome = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        return whole

    def _run_in_thread(self, prediction: Prediction, name: str, inputs: Arrays) -> Rows:
        loaded, deadline = prediction.loaded, prediction.context.deadline
        if deadline is not None:
            deadline.check()
            deadline.on_expired = partial(loaded.health.deadline_expired, deadline)
        try:
            # Quick runs wait for no others.
            if loaded.batcher is not None and not loaded.pace.is_quick:
                return loaded.batcher.run(name, inputs, deadline)
            if deadline is not None:
                deadline.begin_run(perf_counter(), row_count(inputs) or 1)
            return self._run(loaded, loaded.run_in_thread, name, inputs)
        finally:
            if deadline is not None:
                deadline.run_began = 0.0

    def _run_apart(self, prediction: Prediction, name: str, inputs: Arrays) -> Rows:
        prediction.context.check_deadline()
        loaded = prediction.loaded
        return _timed(partial(loaded.health.run, loaded.engine.run), name, inputs)

    def _run(self, loaded: LoadedVersion, run: Run, name: str, inputs: Arrays) -> Rows:
        rows = _timed(run, name, inputs)
        if not isinstance(rows.outcome, Exception):
            self._metrics.of_batch(loaded.model, loaded.version).observe(rows.count)
        return rows

    def _run_copy(self, shadow: LoadedVersion, signature_name: str, inputs: Arrays) -> Arrays:
        """A shadow's outputs for a copy of a request."""
        return self.outputs(shadow, signature_name, inputs, RequestContext()).outputs

    def outputs(self, loaded: LoadedVersion, signature_name: str, inputs: Arrays, context: RequestContext) -> Inferred:
        """The outputs for inputs that came with no request, run in this thread. Raises ServingError."""
        prediction = Prediction(loaded, signature_name, inputs, _encode_nothing, context)
        (outcome,) = self.infer([prediction], self.in_thread)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _respond(self, prediction: Prediction, outcomes: Sequence[Inferred | Exception]) -> Response:
        (outcome,) = outcomes
        if isinstance(outcome, Exception):
            raise outcome
        prediction.context.inferred()
        return prediction.encode(outcome)

    def _outcome(self, prediction: Prediction, rows: Rows, records: bool) -> Inferred | Exception:
        prediction.context.ran(rows.run_began, rows.run_seconds, rows.batch_size)
        if isinstance(rows.outcome, Exception):
            return rows.outcome
        try:
            inferred = _separated(prediction.loaded, prediction.signature_name, rows.outcome)
            if records:
                self._record(prediction, inferred)
        # A bug: this request alone gets it.
        except Exception as error:
            return error
        return inferred

    def _record(self, prediction: Prediction, inferred: Inferred) -> None:
        loaded, name, context = prediction.loaded, prediction.signature_name, prediction.context
        inputs, outputs = prediction.inputs, inferred.outputs
        of_inference = self._metrics.of_inference(loaded.model, loaded.version, loaded.engine.name, name)
        of_inference.observe(context.run_seconds)
        if inferred.outlier_scores:
            self._metrics.of_outlier_scores(loaded.model, loaded.version).record(inferred.outlier_scores)
        if (label_scores := loaded.label_scores(name, outputs)) is not None:
            places, confidences = best_labels(label_scores)
            self._metrics.of_predictions(loaded.model, loaded.version).record(loaded.config.labels, places, confidences)
            # A copy for a shadow has no protocol, and nobody has its id.
            if self._remember is not None and context.protocol:
                self._remember(context.request_id, loaded.digest, places, confidences)
        if loaded.drift is not None:
            scored = _with_label_scores(loaded, name, outputs, label_scores)
            loaded.drift.observe(name, inputs, scored, inferred.outlier_scores)
        if loaded.shadow is not None:
            self.mirror.offer(loaded.shadow, loaded, name, inputs, outputs)
        if self._capture is not None and context.protocol:
            self._capture(context, loaded, name, inputs, outputs)


def check_inputs(signature: Signature, inputs: Arrays) -> None:
    """Raise InvalidRequest where an input is missing, unknown or of a shape that the signature does not take."""
    if inputs.keys() != signature.inputs.keys():
        if unknown := sorted(inputs.keys() - signature.inputs.keys()):
            raise InvalidRequest(f"unknown input {_names(unknown)}; expected {_names(signature.inputs)}")
        missing = sorted(signature.inputs.keys() - inputs.keys())
        raise InvalidRequest(f"missing input {_names(missing)}; expected {_names(signature.inputs)}")
    for name, array in inputs.items():
        check_shape(name, array, signature.inputs[name])


def _timed(run: Run, name: str, inputs: Arrays) -> Rows:
    count = row_count(inputs) or 1
    outcome: Outcome
    began = perf_counter()
    try:
        outcome = run(name, inputs)
    except Exception as error:
        outcome = error
    return Rows(name, inputs, count, None, outcome, began, perf_counter() - began, count)


def _separated(loaded: LoadedVersion, signature_name: str, outputs: Arrays) -> Inferred:
    """`outputs`: of the signature that was run, which may be the one with the outlier score."""
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
    """The outputs with a score for each label, also where two labels share one probability."""
    name = loaded.label_output(signature_name)
    if name is None or label_scores is None or label_scores is outputs[name]:
        return outputs
    return {**outputs, name: label_scores}


def _encode_nothing(_inferred: Inferred) -> Response:
    raise NotImplementedError


def _names(names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(map(repr, names))
