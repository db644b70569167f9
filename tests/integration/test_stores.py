"""Models in stores: from upload to AVAILABLE, what goes wrong there, and each protocol of a store by itself."""

import io
import itertools
import os
import signal
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from service.inference.version import State
from service.stores.errors import StoreError
from service.stores.location import parse
from service.stores.sources import source_of
from tests.integration.models import VERSION_1, Model, asking
from tests.integration.server import Server, is_fetcher, running
from tests.integration.stores import BUCKET, Fault, Store, make_certificate, serving

ROOT = "all/models"
URL = f"s3://{BUCKET}/{ROOT}"
SECRETS = ("AKIDNOBODY", "verysecret", "signed-query", "passw0rd", "hf_token")

Serve = Callable[..., AbstractContextManager[Server]]
numbers = itertools.count()


@pytest.fixture(scope="module")
def shared_store() -> Iterator[Store]:
    with serving(Store()) as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", store.url)
        patch.setenv("AWS_ACCESS_KEY_ID", SECRETS[0])
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[1])
        yield store


@pytest.fixture(scope="module")
def service(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fetched")
    settings = {"models": URL, "store_folder": folder, "poll_seconds": 0.2}
    with running(folder, folder.parent / "service.log", **settings) as server:
        yield server


@pytest.fixture
def store(shared_store: Store) -> Iterator[Store]:
    yield shared_store
    shared_store.fault = lambda _key: None
    shared_store.delete("")


@pytest.fixture
def model(store: Store, service: Server) -> Model:
    """A model of the test's own in the module's service, version 1 of which is served."""
    model = Model(service, f"m{next(numbers)}")
    store.upload(VERSION_1, f"{ROOT}/{model.name}/1")
    model.wait_for_state(1)
    return model


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Starts a service of the test's own."""

    def start(url: str, **settings: object) -> AbstractContextManager[Server]:
        given = {"models": url, "store_folder": tmp_path / "fetched", "poll_seconds": 0.2, **settings}
        return running(tmp_path / "fetched", tmp_path / "service.log", **given)

    return start


def failures(server: Server, kind: str) -> float:
    return server.sample(f'serving_store_failures_total{{kind="{kind}"}}')


def wait_for_failure(server: Server, kind: str, before: float = 0) -> None:
    server.wait_for(lambda: failures(server, kind) > before, f"no failure of the kind {kind}")


def fetcher(server: Server) -> psutil.Process:
    (found,) = filter(is_fetcher, psutil.Process(server.process.pid).children())
    return found


def archive_of(version: Path, name: str) -> bytes:
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            tar.add(version, name)
        return out.getvalue()


def test_new_version_takes_over_without_a_failed_request(store: Store, model: Model) -> None:
    store.fault = lambda key: Fault(pause=0.5) if key.endswith("2/saved_model.pb") else None
    with asking(model.server, f"{model.path}:predict") as outcomes:
        store.upload(VERSION_1, f"{ROOT}/{model.name}/2")
        model.wait_for_default(2)
        store.delete(f"{ROOT}/{model.name}/1/")
        model.server.wait_for(lambda: model.states() == {2: State.AVAILABLE}, "version 1 is not gone")
    assert outcomes.keys() == {"200"}
    assert not (model.folder / "1").exists()
    assert model.server.sample("serving_store_failing") == 0
    assert model.server.sample("serving_store_fetched_bytes_total") > 0


def test_store_that_fails_leaves_everything_serving(store: Store, model: Model) -> None:
    with asking(model.server, f"{model.path}:predict") as outcomes:
        store.fault = lambda key: None if key else Fault(403)
        wait_for_failure(model.server, "denied")
        assert model.server.sample("serving_store_failing") == 1
        store.upload(VERSION_1, f"{ROOT}/{model.name}/2")
        store.fault = lambda _key: None
        model.wait_for_state(2)
    assert outcomes.keys() == {"200"}
    model.server.wait_for(lambda: model.server.sample("serving_store_failing") == 0, "it still fails")


def test_fetch_that_fails_is_tried_again(store: Store, model: Model) -> None:
    store.fault = lambda key: Fault(cut=10) if key.endswith("2/saved_model.pb") else None
    store.upload(VERSION_1, f"{ROOT}/{model.name}/2")
    wait_for_failure(model.server, "unreachable")
    assert not (model.folder / "2").exists()
    store.fault = lambda _key: None
    model.wait_for_state(2)
    assert model.predict() == 200


def test_fetching_process_that_dies_is_replaced(store: Store, model: Model) -> None:
    before = fetcher(model.server)
    before.send_signal(signal.SIGKILL)
    model.server.wait_until_logged("the process that fetches models ended (signal 9)")
    store.upload(VERSION_1, f"{ROOT}/{model.name}/2")
    model.wait_for_state(2)
    assert fetcher(model.server).pid != before.pid


def assert_secrets_are_kept(server: Server) -> None:
    text = server.log.read_text() + server.request("/metrics").body.decode()
    assert not [secret for secret in SECRETS if secret in text]


def test_nothing_of_a_credential_is_shown(model: Model) -> None:
    assert_secrets_are_kept(model.server)


def test_it_ends_with_the_first_process_and_starts_with_what_it_fetched(store: Store, serve: Serve) -> None:
    store.upload(VERSION_1, f"{ROOT}/m/1")
    store.upload(VERSION_1, f"{ROOT}/m/2")
    with serve("models", base_path=f"{URL}/m") as server:
        assert Model(server, "m").states() == {2: State.AVAILABLE}
        process = fetcher(server)
        os.kill(server.process.pid, signal.SIGKILL)
        process.wait(30)
    store.fault = lambda _key: Fault(503)
    with serve("models", base_path=f"{URL}/m") as server:
        assert Model(server, "m").states() == {2: State.AVAILABLE}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def test_archive_by_https(certificate: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(Store(), certificate) as store:
        store.objects["some/house.tar.gz"] = archive_of(VERSION_1, "1")
        url = store.url.replace("://", f"://user:{SECRETS[3]}@") + f"/some/house.tar.gz?sig={SECRETS[2]}"
        with serve(url) as server:
            model = Model(server, "house")
            assert model.states() == {1: State.AVAILABLE}
            store.objects["some/house.tar.gz"] = b"no archive"
            wait_for_failure(server, "refused")
            store.objects["some/house.tar.gz"] = archive_of(VERSION_1, "2")
            model.wait_for_default(2)
            assert_secrets_are_kept(server)


# Protocols, without a service


def fetched(url: str, store: Store, tmp_path: Path, change: Callable[[], object] = lambda: None) -> bytes:
    """The first file there. `change`: called between listing and fetch."""
    location = parse(url)
    assert location is not None
    variables = {"HF_ENDPOINT": store.url, "HF_TOKEN": SECRETS[4], "STORAGE_EMULATOR_HOST": store.url}
    variables |= {"AWS_ENDPOINT_URL": store.url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    source = source_of(location, variables)
    file = source.listing()[0]
    change()
    source.fetch(file, tmp_path / "file", lambda _size: None)
    return (tmp_path / "file").read_bytes()


def refusal(url: str, store: Store, tmp_path: Path, change: Callable[[], object] = lambda: None) -> StoreError:
    with pytest.raises(StoreError) as raised:
        fetched(url, store, tmp_path, change)
    return raised.value


@pytest.mark.parametrize("url", [URL, f"gs://{BUCKET}/{ROOT}", "hf://some/house"])
def test_file_is_listed_and_fetched(url: str, tmp_path: Path) -> None:
    with serving(Store(objects={f"{ROOT}/m/1/saved_model.pb": b"graph"})) as store:
        assert fetched(url, store, tmp_path) == b"graph"


def test_object_that_changes_before_its_fetch_is_refused(tmp_path: Path) -> None:
    with serving(Store(objects={f"{ROOT}/a": b"12345"})) as store:
        error = refusal(URL, store, tmp_path, lambda: store.objects.update({f"{ROOT}/a": b"54321"}))
    assert error.kind == "changed"


@pytest.mark.parametrize("of_listing", [True, False], ids=["listing", "fetch"])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(403), "denied"),
        (Fault(404), "missing"),
        (Fault(412), "changed"),
        (Fault(503), "throttled"),
        (Fault(500), "unreachable"),
        (Fault(cut=2), "unreachable"),
    ],
    ids=["403", "404", "412", "503", "500", "cut off"],
)
def test_failure_of_an_object_store_has_its_kind(fault: Fault, kind: str, of_listing: bool, tmp_path: Path) -> None:
    with serving(Store(objects={f"{ROOT}/a": bytes(100)})) as store:
        store.fault = lambda key: None if bool(key) is of_listing else fault
        assert refusal(URL, store, tmp_path).kind == kind


def test_credentials_are_not_taken_to_another_host(tmp_path: Path) -> None:
    with serving(Store(objects={"a/b": b"moved"})) as store, serving(Store(objects={"a/b": b"moved"})) as other:
        store.fault = lambda key: Fault(302, location=f"{other.url}/a/b") if key else None
        assert fetched("hf://some/house", store, tmp_path) == b"moved"
        assert store.requests[-1][1]["Authorization"] == f"Bearer {SECRETS[4]}"
        assert "Authorization" not in other.requests[-1][1]


def test_large_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    with serving(Store(objects={"a": b"12345"})) as store:
        error = refusal("hf://some/house", store, tmp_path, lambda: store.objects.update(a=b"54321"))
    assert "a is damaged: its SHA-256 is another" in str(error)


def test_retry_after_is_kept(tmp_path: Path) -> None:
    with serving(Store()) as store:
        store.fault = lambda _key: Fault(503, retry_after="7")
        error = refusal("hf://some/house", store, tmp_path)
    assert (error.kind, error.retry_after) == ("throttled", 7)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(302, location="http://localhost:1/a.tar"), "it redirects to a connection that is not encrypted"),
        (Fault(401), "it denies access (HTTP 401)"),
        (Fault(cut=2), "the connection was cut off"),
    ],
    ids=["redirect", "401", "cut off"],
)
def test_archive_that_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: Path, fault: Fault, message: str
) -> None:
    with serving(Store(objects={"a.tar": b"12345"}), certificate) as store:
        assert "its certificate is not trusted" in str(refusal(f"{store.url}/a.tar", store, tmp_path))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        store.fault = lambda _key: fault
        assert message in str(refusal(f"{store.url}/a.tar", store, tmp_path))
