"""Feedback: takes right labels, joins them with what was answered, counts them and writes them down."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec

from service.errors import InvalidRequest, NotFound, ServingError
from service.feedback.answers import Answer, Answers, digest_of
from service.feedback.captured import Search
from service.feedback.lines import FeedbackFiles, FeedbackLine
from service.feedback.observed import GivenRow, Observed, Taken
from service.inference.scores import best_labels
from service.inference.version import LoadedVersion
from service.metrics.definitions import Metrics
from service.observability.capture import Captured, decode_tensors
from service.observability.rotating_file import older_file

# Of a version with more labels, pairs would be too many series.
MAX_CONFUSION_LABELS = 20
# Of a long list, the labels that a message names.
MAX_NAMED_LABELS = 100


class Given(msgspec.Struct, frozen=True):
    """Feedback for a request. `labels`: the right one of each row, None for a row without feedback; a string for a
    request of one row. `place`: where it stands in the body, for messages."""

    request_id: str
    labels: str | Sequence[str | None]
    place: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """How many requests got their feedback, for how many it was known already, and the ids that nothing is known of."""

    accepted: int
    duplicates: int
    unknown: list[str]


@dataclass(frozen=True, slots=True)
class _Joined:
    """Feedback with what it is about. `given`: of each row its label's place, None where there is none."""

    request_id: str
    loaded: LoadedVersion
    answer: Answer
    given: Sequence[int | None]


class Feedback:
    def __init__(
        self,
        answers: Answers,
        observed: Observed,
        metrics: Metrics,
        files: FeedbackFiles,
        capture_file: Callable[[str], Path | None],
        remembered_rows: int,
        search: Search | None = None,
    ) -> None:
        """`capture_file`: of a model. `remembered_rows`: how many answers all worker processes remember."""
        self._answers = answers
        self._observed = observed
        self._metrics = metrics
        self._files = files
        self._capture_file = capture_file
        self._remembered_rows = remembered_rows
        self._search = search or Search()

    def give(
        self,
        given: Sequence[Given],
        versions: Sequence[LoadedVersion],
        loaded: Sequence[LoadedVersion],
        check: Callable[[], None],
    ) -> Outcome:
        """Count the feedback for these versions, which are of one model. `loaded`: all versions, for messages. `check`:
        raises when nobody waits any more.

        Raises:
            InvalidRequest: a label is unknown or missing, or the versions have none. Then nothing is counted.
            NotFound: no request is known.
            Unavailable: others search the captured requests.
        """
        model = versions[0].model
        by_digest = {version.digest: version for version in versions if version.gives_labels}
        if not by_digest:
            raise InvalidRequest(f"{_named(versions)} has no labels, so there is nothing that feedback could be about")
        ids = {each.request_id for each in given}
        answers = self._answers.find(ids)
        found: dict[str, tuple[LoadedVersion, Answer]] = {}
        for request_id, remembered in answers.items():
            for answer in remembered:
                if answer.version in by_digest:
                    found.setdefault(request_id, (by_digest[answer.version], answer))
        captured, searched = self._find_captured(model, ids - found.keys(), check)
        for request_id, one in captured.items():
            version = next((each for each in by_digest.values() if each.version == one.version), None)
            if one.model == model and version is not None and (of_line := _captured_answer(version, one)) is not None:
                found[request_id] = version, of_line
        joined = [_join(each, *found[each.request_id]) for each in given if each.request_id in found]
        unknown = list(dict.fromkeys(each.request_id for each in given if each.request_id not in found))
        if not joined:
            raise self._not_found(unknown, versions, loaded, answers, captured, searched)
        accepted = self._take(model, joined)
        return Outcome(accepted, len(joined) - accepted, unknown)

    def _find_captured(
        self, model: str, request_ids: set[str], check: Callable[[], None]
    ) -> tuple[Mapping[str, Captured], str]:
        """Those that are captured, and what was searched, in words."""
        path = self._capture_file(model)
        if path is None or not request_ids:
            return {}, ""
        captured, is_all = self._search.find((path, older_file(path)), request_ids, check)
        return captured, "the captured requests" if is_all else "the newest of the captured requests"

    def _take(self, model: str, joined: Sequence[_Joined]) -> int:
        """Count; returns for how many requests anything is new."""
        rows = [
            GivenRow(digest_of(each.request_id), each.loaded.digest, row, each.answer.confidences[row], answered, given)
            for each in joined
            for row, (answered, given) in enumerate(zip(each.answer.labels, each.given, strict=True))
            if given is not None
        ]
        taken = iter(zip(rows, self._observed.take(rows), strict=True))
        accepted = []
        for each in joined:
            of_request = islice(taken, sum(given is not None for given in each.given))
            new = [row for row, what in of_request if what is not Taken.SAME]
            for row in new:
                self._count(each.loaded, row)
            if new:
                accepted.append(each)
        path = self._capture_file(model)
        if path is not None:
            self._files.write(path, [_line(each) for each in accepted])
        return len(accepted)

    def _count(self, loaded: LoadedVersion, row: GivenRow) -> None:
        version, labels = (loaded.model, loaded.version_text), loaded.config.labels
        self._metrics.feedback.labels(*version, "right" if row.given == row.answered else "wrong").inc()
        if len(labels) <= MAX_CONFUSION_LABELS:
            self._metrics.confusions.labels(*version, labels[row.given], labels[row.answered]).inc()

    def _not_found(
        self,
        unknown: Sequence[str],
        versions: Sequence[LoadedVersion],
        loaded: Sequence[LoadedVersion],
        answers: Mapping[str, Sequence[Answer]],
        captured: Mapping[str, Captured],
        searched: str,
    ) -> ServingError:
        named = _named(versions)
        looked = f"the answers to the last {self._remembered_rows} rows (SERVING_FEEDBACK_REQUESTS)"
        looked += f" and {searched}" if searched else ""
        if len(unknown) > 1:
            what = f"none of the {len(unknown)} requests is known as one that {named} answered"
            return NotFound(f"{what}; they were looked for in {looked}")
        (request_id,) = unknown
        by = ""
        if remembered := answers.get(request_id):
            answered_by = [version for version in loaded if version.digest == remembered[0].version]
            by = _named(answered_by) if answered_by else "a version that is no longer loaded"
        elif one := captured.get(request_id):
            by = f"{one.model} version {one.version}"
        if by:
            return NotFound(f"request {request_id!r} was not answered by {named} but by {by}")
        return NotFound(f"request {request_id!r} is unknown; it was looked for in {looked}")


def _join(given: Given, loaded: LoadedVersion, answer: Answer) -> _Joined:
    labels = [given.labels] if isinstance(given.labels, str) else given.labels
    rows = len(answer.labels)
    if len(labels) != rows:
        expected = "a label" if rows == 1 else f"a list of {rows} labels, one for each row"
        sent = "a label" if isinstance(given.labels, str) else f"a list of {len(labels)}"
        raise InvalidRequest(f"{given.place}'label' is {sent}; expected {expected}, for the request had {rows}")
    places = {label: place for place, label in enumerate(loaded.config.labels)}
    for label in labels:
        if label is not None and label not in places:
            known = ", ".join(map(repr, loaded.config.labels[:MAX_NAMED_LABELS]))
            more = ", ..." if len(places) > MAX_NAMED_LABELS else ""
            raise InvalidRequest(
                f"{given.place}unknown label {label[:80]!r}; {loaded.model} version {loaded.version} has {known}{more}"
            )
    return _Joined(given.request_id, loaded, answer, [None if label is None else places[label] for label in labels])


def _captured_answer(loaded: LoadedVersion, captured: Captured) -> Answer | None:
    """None where the line does not fit the version, whose files may be others now."""
    try:
        scores = loaded.label_scores(captured.signature, decode_tensors(captured.outputs))
    except (KeyError, ValueError):
        return None
    if scores is None or scores.shape[1] != len(loaded.config.labels):
        return None
    places, confidences = best_labels(scores)
    return Answer(loaded.digest, int(captured.time.timestamp()), list(map(int, places)), list(map(float, confidences)))


def _line(joined: _Joined) -> FeedbackLine:
    loaded, names = joined.loaded, joined.loaded.config.labels
    return FeedbackLine(
        datetime.now(UTC),
        joined.request_id,
        loaded.model,
        loaded.version,
        [None if place is None else names[place] for place in joined.given],
        [names[place] for place in joined.answer.labels],
    )


def _named(versions: Sequence[LoadedVersion]) -> str:
    model = versions[0].model
    return f"{model} version {versions[0].version}" if len(versions) == 1 else model
