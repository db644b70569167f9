"""The docs name every setting, metric, route and flag that the code has; of settings and metrics no others."""

import json
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

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
from training.__main__ import COMMANDS, MODELS

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
    exported = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in scrape_page(metrics, Registry()).collect()
    }
    page = DOCS["docs/operations/monitoring.md"]
    found = re.findall(r"^\| `(serving_\w+)` \| ([\w, ]*?) ?\|", page, re.MULTILINE)
    assert {name for name, _ in found} == exported
    documented = {name.removesuffix("_total"): tuple(filter(None, names.split(", "))) for name, names in found}
    for family in metrics.families:
        assert documented[family.name] == family.label_names


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


def test_examples_of_configuration_are_valid() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS["docs/operations/models.md"], re.DOTALL)
    policies = decode(example.encode(), Path("models.toml"))
    assert (policies.of("clothing").canary, policies.of("seldom").load) == (("canary", 0.1), "on_demand")
    (example,) = re.findall(r"```proto\n(.*?)```", DOCS["docs/tensorflow-serving.md"], re.DOTALL)
    policy = decode_config(example.encode(), Path("models.config")).of("my_model")
    assert (policy.versions, policy.label_versions) == ([42, 43], {"stable": 42, "canary": 43})


def test_flags_of_tensorflow_serving_are_documented() -> None:
    row = r"^\| `--(\w+)` \| (\S+) \| ([^|]+) \| ([^|]*?) ?\|$"
    documented = [
        (name, default.strip("`"), tuple(re.findall(r"`SERVING_(\w+)`", sets)), note)
        for name, default, sets, note in re.findall(row, DOCS["docs/tensorflow-serving.md"], re.MULTILINE)
    ]
    defaults = [str(flag.default) for flag in FLAGS.values()]
    assert documented == [
        (
            flag.name,
            (default.lower() if isinstance(flag.default, bool) else default) or "empty",
            tuple(setting.upper() for setting in flag.settings),
            flag.note,
        )
        for flag, default in zip(FLAGS.values(), defaults, strict=True)
    ]


@pytest.mark.parametrize("module", MODELS + COMMANDS, ids=lambda module: module.NAME)
def test_flags_of_training_are_documented(module: Any) -> None:
    for spec in fields(module.Config):
        if not spec.metadata.get("positional"):
            assert f"`--{spec.name.rstrip('_').replace('_', '-')}`" in DOCS["docs/training.md"]


@pytest.mark.parametrize("assets", sorted(ROOT.glob("models/*/*/assets.extra")), ids=lambda path: path.parts[-3])
def test_files_and_metrics_of_versions_are_documented(assets: Path) -> None:
    for name in [file.name for file in assets.iterdir()] + list(json.loads((assets / "metrics.json").read_text())):
        assert f"`{name}`" in DOCS["docs/training.md"]


def check_link(source: str, name: str, anchor: str) -> None:
    """`anchor`: as GitHub makes them of headings; empty if the link has none."""
    assert (ROOT / name).exists(), f"{source} links to {name}"
    if anchor:
        page = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(), flags=re.DOTALL | re.MULTILINE)
        headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{source} links to {name}#{anchor}"


@pytest.mark.parametrize("page", [page for page in DOCS if page != "CHANGELOG.md"])
def test_links_between_docs(page: str) -> None:
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)]+)\)", DOCS[page])):
        check_link(page, os.path.normpath(Path(page).parent / target) if target else page, anchor)


@pytest.mark.parametrize("folder", ["service", "training", "monitoring", "deploy", "benchmarks"])
def test_links_from_sources(folder: str) -> None:
    """Messages, alerts, dashboards and manifests point at pages."""
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in {".py", ".yml", ".yaml", ".json", ".toml", ".conf"} and "vendor" not in path.parts:
            for name, anchor in re.findall(r"(docs/[\w/.-]+\.md)(?:#([\w-]+))?", path.read_text()):
                check_link(str(path), name, anchor)
