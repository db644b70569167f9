"""The docs name every setting, metric and route that the code has, and no others."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.api.routes import ROUTES
from service.cli.tensorflow_model_server import FLAGS
from service.inference.version import State
from service.lifecycle.model_server_config import decode as decode_config
from service.lifecycle.policies import Batching, CapturePolicy, Label, ModelPolicy, decode
from service.lifecycle.registry import Registry
from service.metrics.definitions import Metrics, scrape_page
from service.serving_config import ImageSpec, ServingConfig
from service.settings import Settings, variable

ROOT = Path(__file__).parents[2]
# By their paths.
DOCS = {
    str(path.relative_to(ROOT)): path.read_text() for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
}


def test_settings_are_documented() -> None:
    documented = dict(re.findall(r"^\| `(SERVING_\w+)` \| (\S+) \|", DOCS["docs/settings.md"], re.MULTILINE))
    expected = {variable(spec): f"`{spec.default}`" if str(spec.default) else "empty" for spec in fields(Settings)}
    assert documented == expected


def test_metrics_are_documented() -> None:
    metrics = Metrics(CollectorRegistry())
    suffix = {"counter": "_total"}
    labelled = {family.name + suffix.get(family.type, ""): family.label_names for family in metrics.families}
    others = [
        family.name + suffix.get(family.type, "")
        for family in scrape_page(metrics, Registry()).collect()
        if family.name + suffix.get(family.type, "") not in labelled
    ]
    page = DOCS["docs/operations/monitoring.md"]
    documented = dict(re.findall(r"^\| `(serving_\w+)` \| ([\w, ]*?) ?\|", page, re.MULTILINE))
    assert {name: tuple(filter(None, documented.get(name, "").split(", "))) for name in labelled} == labelled
    assert set(documented) == {*labelled, *others}


def test_routes_are_documented() -> None:
    documented = set(re.findall(r"`(?:GET|POST) (/\S*)`", DOCS["docs/api.md"]))
    for route in ROUTES:
        path = re.sub(r"/(versions|labels)/{(version|label)}", "", route.path).replace("{", "<").replace("}", ">")
        assert path in documented, f"{path} is not in docs/api.md"
    for suffix in ("/versions/<version>", "/labels/<label>"):
        assert suffix in DOCS["docs/api.md"]


def test_states_and_fields_of_files_are_documented() -> None:
    parts = (ServingConfig, ImageSpec, ModelPolicy, Label, Batching, CapturePolicy)
    for part in (name for struct in parts for name in struct.__struct_fields__):
        assert f"`{part}`" in DOCS["docs/operations/models.md"], part
    for state in State:
        assert f"| {state} |" in DOCS["docs/api.md"], state


def test_example_of_models_toml_is_valid() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS["docs/operations/models.md"], re.DOTALL)
    policies = decode(example.encode(), Path("models.toml"))
    assert (policies.of("clothing").canary, policies.of("seldom").load) == (("canary", 0.1), "on_demand")


def test_flags_of_tensorflow_serving_are_documented() -> None:
    rows = re.findall(
        r"^\| `--(\w+)` \| (\S+) \| ([^|]+) \| ([^|]*?) ?\|$", DOCS["docs/tensorflow-serving.md"], re.MULTILINE
    )
    documented = [
        (name, default.strip("`"), tuple(re.findall(r"`SERVING_(\w+)`", sets)), note)
        for name, default, sets, note in rows
    ]
    expected = [
        (
            flag.name,
            (str(flag.default).lower() if isinstance(flag.default, bool) else str(flag.default)) or "empty",
            tuple(setting.upper() for setting in flag.settings),
            flag.note,
        )
        for flag in FLAGS.values()
    ]
    assert documented == expected


def test_example_of_a_model_config_file_is_valid() -> None:
    (example,) = re.findall(r"```proto\n(.*?)```", DOCS["docs/tensorflow-serving.md"], re.DOTALL)
    policy = decode_config(example.encode(), Path("models.config")).of("my_model")
    assert (policy.versions, policy.label_versions) == ([42, 43], {"stable": 42, "canary": 43})


@pytest.mark.parametrize("name", [name for name in DOCS if name != "CHANGELOG.md"])
def test_links_between_docs(name: str) -> None:
    source = ROOT / name
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)]+)\)", DOCS[name])):
        file = source if not target else (source.parent / target).resolve()
        assert file.exists(), f"{name} links to {target}"
        assert not anchor or anchor in anchors(file.read_text()), f"{name} links to {target}#{anchor}"


# Messages, alerts, dashboards and manifests point at pages.
SOURCES = sorted(
    path
    for folder in ("service", "training", "monitoring", "deploy", "benchmarks")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".yml", ".yaml", ".json", ".toml", ".conf"} and "vendor" not in path.parts
)


def test_links_from_sources() -> None:
    for source in SOURCES:
        for name, anchor in re.findall(r"(docs/[\w/.-]+\.md)(?:#([\w-]+))?", source.read_text()):
            assert name in DOCS, f"{source.relative_to(ROOT)} names {name}"
            assert not anchor or anchor in anchors(DOCS[name]), f"{source.relative_to(ROOT)} names {name}#{anchor}"


def anchors(page: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
