"""Prometheus and Grafana: what is scraped and drawn is what Ray and the endpoint export."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "cluster" / "monitoring"
DASHBOARDS = sorted(MONITORING.glob("*.json"))
SUFFIXES = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_sum", "_count"]}


def queries(dashboard: Path) -> list[str]:
    return [target["expr"] for panel in json.loads(dashboard.read_text())["panels"] for target in panel["targets"]]


def of_the_endpoint() -> set[str]:
    """The names under which Ray exports what serve_watch.py defines."""
    tree = ast.parse((ROOT / "srgan_ray" / "on_ray" / "serve_watch.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") in SUFFIXES]
    return {f"ray_{call.args[0].value}{suffix}" for call in calls for suffix in SUFFIXES[call.func.id]}


def of_ray() -> set[str]:
    """The names that Ray's own dashboards draw, and those of its autoscaler."""
    import ray.dashboard.modules.metrics.dashboards as own
    from prometheus_client import generate_latest
    from ray.autoscaler._private.prom_metrics import AutoscalerPrometheusMetrics

    panels = [path.read_text() for path in Path(own.__path__[0]).glob("*.py")]
    autoscaler = generate_latest(AutoscalerPrometheusMetrics(session_name="").registry).decode()
    return set(re.findall(r"\bray_\w+", "".join(panels))) | set(re.findall(r"# TYPE (\w+)", autoscaler))


def test_there_are_dashboards() -> None:
    assert {path.stem for path in DASHBOARDS} == {"grafana_cluster", "grafana_endpoint"}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_metric_exists(dashboard: Path) -> None:
    known = of_the_endpoint() | of_ray()
    for query in queries(dashboard):
        names = re.findall(r"\b(?:ray|autoscaler)_\w+", query)
        assert names, query
        assert set(names) <= known, query


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_lie_side_by_side_and_take_the_chosen_prometheus(dashboard: Path) -> None:
    page = json.loads(dashboard.read_text())
    assert [variable["type"] for variable in page["templating"]["list"]] == ["datasource"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in page["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in page["panels"]}) == len(places)
    for panel in page["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_dashboards_do_not_replace_each_other() -> None:
    assert len({json.loads(path.read_text())["uid"] for path in DASHBOARDS}) == len(DASHBOARDS)


def test_prometheus_finds_the_nodes_where_ray_writes_them() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    assert set(config) == {"global", "scrape_configs"}
    [job] = config["scrape_configs"]
    assert set(job) == {"job_name", "file_sd_configs"}  # by default http and /metrics, as Ray serves them
    assert job["file_sd_configs"] == [{"files": [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}]
    assert re.fullmatch(r"\d+[sm]", config["global"]["scrape_interval"])
