"""The Kubernetes manifests: kinds as KubeRay and Kubernetes know them, commands as the verbs take them, figures that go
together, pods that ask for little, doors that are shut."""

import copy
import functools
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import ray
import yaml

import srgan_ray
from srgan_ray import cli

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "kubernetes"
README = FOLDER / "README.md"
NAMESPACE = "srgan-ray"
VERSION = srgan_ray.__version__
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
KUBERNETES = "1.34"
SECRET_VALUE = re.compile(r"AKIA\w{16}|PRIVATE KEY|\b[0-9a-f]{32,}\b|\b[A-Za-z0-9+/]{40,}={0,2}(?![\w/])")
SECRET_NAME = re.compile(r"key|secret|token|password", re.I)
RAYS_PORTS = (6379, 8265, 10001, 52365, 8080)
OUTSIDE = {"namespace": "elsewhere", "labels": {}}
OPERATOR = {"namespace": "kuberay-system", "labels": {"app.kubernetes.io/name": "kuberay-operator"}}
PROMETHEUS = {"namespace": "monitoring", "labels": {"app.kubernetes.io/name": "prometheus"}}


@functools.cache
def documents() -> list[dict[str, Any]]:
    return [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] == kind]


def the(kind: str) -> dict[str, Any]:
    [document] = of_kind(kind)
    return document


def ray_clusters() -> dict[str, dict[str, Any]]:
    """The spec of each Ray cluster, by what its pods are for."""
    return {"training": the("RayCluster")["spec"], "endpoint": the("RayService")["spec"]["rayClusterConfig"]}


class Group(NamedTuple):
    """The head, or the workers of a group."""

    part: str
    name: str
    spec: dict[str, Any]

    @property
    def pod(self) -> dict[str, Any]:
        return self.spec["template"]["spec"]

    @property
    def container(self) -> dict[str, Any]:
        [container] = self.pod["containers"]
        return container

    @property
    def limits(self) -> dict[str, float]:
        return {name: quantity(value) for name, value in self.container["resources"]["limits"].items()}

    @property
    def num_cpus(self) -> int:
        """As Ray counts them: rayStartParams before the container's limit."""
        return int(self.spec["rayStartParams"].get("num-cpus", self.limits["cpu"]))

    @property
    def labels(self) -> dict[str, str]:
        """Those of the template, and those that KubeRay gives a pod."""
        node_type = "head" if self.name == "head" else "worker"
        given = {"ray.io/is-ray-node": "yes", "ray.io/node-type": node_type, "ray.io/group": self.name}
        return self.spec["template"]["metadata"]["labels"] | given

    @property
    def port_numbers(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}


def groups() -> list[Group]:
    return [
        Group(part, spec.get("groupName", "head"), spec)
        for part, cluster in ray_clusters().items()
        for spec in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    ]


def group(part: str, name: str) -> Group:
    [found] = [each for each in groups() if (each.part, each.name) == (part, name)]
    return found


def quantity(value: str) -> float:
    """Kubernetes' 500m, 2, 8Gi."""
    number, unit = re.fullmatch(r"(\d+)(m|Mi|Gi|)", value).groups()  # type: ignore[union-attr]
    return int(number) * {"m": 1e-3, "": 1, "Mi": 2**20, "Gi": 2**30}[unit]


each_group = pytest.mark.parametrize("group", groups(), ids=lambda group: f"{group.part}-{group.name}")


# What Kubernetes and KubeRay take


@pytest.fixture(scope="session")
def kuberay() -> dict[str, dict[str, Any]]:
    """KubeRay's v1 schemas by kind, strict, from the folder that SRGAN_RAY_KUBERAY names, or ../shared/kuberay."""
    folder = Path(os.environ.get("SRGAN_RAY_KUBERAY", ROOT.parent / "shared" / "kuberay"))
    if not folder.is_dir():
        pytest.skip(f"no schemas of KubeRay at {folder}; set SRGAN_RAY_KUBERAY to their folder")
    definitions = [json.loads(path.read_text())["spec"] for path in folder.glob("*.json")]
    return {definition["names"]["kind"]: strict(v1_schema(definition)) for definition in definitions}


def v1_schema(definition: dict[str, Any]) -> dict[str, Any]:
    [schema] = [version["schema"] for version in definition["versions"] if version["name"] == "v1"]
    schema["openAPIV3Schema"]["properties"]["metadata"] = {"type": "object"}
    return schema["openAPIV3Schema"]


def strict(schema: Any) -> Any:
    """Left alone, a schema of Kubernetes passes over keys that it does not know."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    return schema


def faults_in(document: dict[str, Any], kuberay: dict[str, dict[str, Any]]) -> list[str]:
    validator = jsonschema.Draft7Validator(kuberay[document["kind"]])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def test_kuberay_takes_its_kinds(kuberay: dict[str, dict[str, Any]]) -> None:
    checked = [document for document in documents() if document["apiVersion"] == "ray.io/v1"]
    assert {document["kind"] for document in checked} == set(kuberay)
    for document in checked:
        assert not faults_in(document, kuberay), document["metadata"]["name"]


def test_a_misspelt_key_would_be_found(kuberay: dict[str, dict[str, Any]]) -> None:
    for kind, path in (
        ("RayCluster", ("spec", "headGroupSpec")),
        ("RayCluster", ("spec", "workerGroupSpecs", 1, "template", "spec", "containers", 0, "resources")),
        ("RayService", ("spec", "rayClusterConfig", "autoscalerOptions")),
        ("RayJob", ("spec",)),
    ):
        part = document = copy.deepcopy(of_kind(kind)[0])
        for name in path:
            part = part[name]
        part["misspelt"] = 1
        [fault] = faults_in(document, kuberay)
        assert "misspelt" in fault


def test_kubernetes_takes_its_kinds() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate here")
    checked = [each for each in documents() if not each["apiVersion"].startswith(("ray.io/", "monitoring."))]
    assert {each["kind"] for each in checked} == {
        "Namespace", "NetworkPolicy", "PodDisruptionBudget", "PriorityClass", "ServiceAccount",
    }  # fmt: skip
    for document in checked:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_everything_lies_in_one_namespace() -> None:
    assert the("Namespace")["metadata"]["name"] == NAMESPACE
    for document in documents():
        if document["kind"] not in ("Namespace", "PriorityClass"):
            assert document["metadata"]["namespace"] == NAMESPACE, document["metadata"]["name"]


def test_versions_are_those_of_the_project_and_of_ray() -> None:
    assert {cluster["rayVersion"] for cluster in ray_clusters().values()} == {ray.__version__}
    assert {each.container["image"] for each in groups()} == {f"srgan-ray:{VERSION}"}


# Jobs


class Parsed(Exception):
    """The config that a verb would have worked with."""


def parse_entrypoint(entrypoint: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Any]:
    """The verb of a job, and its arguments as the verb itself reads them."""
    python, script, *arguments = shlex.split(entrypoint)
    assert python == "python"
    assert (ROOT / script).is_file(), script
    parse, verb = cli.parse, Path(script).stem

    def parse_and_stop(*given: Any) -> None:
        raise Parsed(parse(*given))

    monkeypatch.setattr(cli, "parse", parse_and_stop)
    with pytest.raises(Parsed) as stopped:
        cli.VERBS[verb](arguments)
    return verb, stopped.value.args[0]


jobs = pytest.mark.parametrize("job", of_kind("RayJob"), ids=lambda job: job["metadata"]["name"])


@jobs
def test_the_verb_takes_the_jobs_arguments(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    verb, _ = parse_entrypoint(job["spec"]["entrypoint"], monkeypatch)
    assert job["metadata"]["name"] == verb
    assert job["spec"]["submissionMode"] == "HTTPMode"  # otherwise there is a pod that submits, and must be said
    assert yaml.safe_load((FOLDER / f"job_{verb}.yaml").read_text()) == job
    assert set(re.findall(r"\S*://\S*?/", job["spec"]["entrypoint"])) == {"s3://srgan-ray/"}


@jobs
def test_the_cluster_has_what_the_job_asks_for(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": the("RayCluster")["metadata"]["name"]}
    assert job["spec"].get("entrypointNumCpus", 0) <= group("training", "cpu").num_cpus
    _, config = parse_entrypoint(job["spec"]["entrypoint"], monkeypatch)
    if hasattr(config, "worker_counts"):
        assert max(config.worker_counts) <= group("training", "gpu").spec["maxReplicas"]
        assert not [num for num in config.worker_counts if config.crops.batch_size % num]


def test_every_stage_has_its_job() -> None:
    names = {job["metadata"]["name"] for job in of_kind("RayJob")}
    assert names == {"prepare", "pretrain", "train", "tune", "promote", "upscale"}


# Figures


@each_group
def test_requests_and_limits_are_said_and_equal(group: Group) -> None:
    resources = group.container["resources"]
    assert resources["requests"] == resources["limits"]
    assert set(resources["limits"]) >= {"cpu", "memory", "ephemeral-storage"}
    assert group.num_cpus <= group.limits["cpu"]


@each_group
def test_replicas_are_in_order_and_heads_do_no_work(group: Group) -> None:
    if group.name == "head":
        assert group.num_cpus == 0
    else:
        assert 0 <= group.spec["minReplicas"] <= group.spec["replicas"] <= group.spec["maxReplicas"]


def test_a_share_of_a_training_fits_the_nodes_with_gpus() -> None:
    """`share_for` gives each worker as many CPUs as all can have, whatever node they are on."""
    cpu, gpu = group("training", "cpu"), group("training", "gpu")
    assert cpu.num_cpus <= gpu.num_cpus
    assert cpu.spec["minReplicas"] >= 1
    assert gpu.limits["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in cpu.limits


def test_each_replica_of_the_endpoint_has_its_pod() -> None:
    config, workers = serve_config(), group("endpoint", "replica")
    scaling, limits = (config["applications"][0]["args"][name] for name in ("scaling", "limits"))
    assert workers.num_cpus == scaling["num_cpus"] < workers.limits["cpu"]
    assert workers.limits.get("nvidia.com/gpu", 0) == scaling["num_gpus"]
    assert workers.spec["minReplicas"] == scaling["min_replicas"]
    assert workers.spec["maxReplicas"] == scaling["max_replicas"]
    # Ray's object store takes 30 %; a megapixel takes up to 0.45 GB
    assert workers.limits["memory"] * 0.7 > 0.45e9 * limits["max_megapixels_at_once"] + 2e9


def serve_config() -> dict[str, Any]:
    return yaml.safe_load(the("RayService")["spec"]["serveConfigV2"])


def test_the_endpoints_config_is_the_serve_config_file() -> None:
    assert serve_config() == yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())


def test_one_replica_stays_when_nodes_are_drained() -> None:
    budget, workers = the("PodDisruptionBudget")["spec"], group("endpoint", "replica")
    assert matches(budget["selector"], workers.labels)
    assert not matches(budget["selector"], group("endpoint", "head").labels)
    # a percentage or maxUnavailable needs a controller with a `scale`, which a Ray cluster is not
    assert set(budget) == {"minAvailable", "selector"}
    assert 1 <= budget["minAvailable"] < workers.spec["minReplicas"]


def test_probes_ask_where_ray_answers() -> None:
    port = serve_config()["http_options"]["port"]
    for each in groups():
        node, ready = ({"path": path, "port": n} for path, n in (("/api/healthz", 52365), ("/-/healthz", port)))
        is_replica = each.name == "replica"
        assert each.container["livenessProbe"]["httpGet"] == node
        assert each.container["readinessProbe"]["httpGet"] == (ready if is_replica else node)


# Safety


@each_group
def test_pods_ask_for_little(group: Group) -> None:
    pod, container = group.pod, group.container
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]  # where Ray and HOME write
    assert {"name": "HOME", "value": "/tmp"} in container["env"]
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"] for mount in container["volumeMounts"]]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["serviceAccountName"] == the("ServiceAccount")["metadata"]["name"]
    assert pod.get("automountServiceAccountToken", True) is (group.name == "head")  # the autoscaler's


@pytest.mark.parametrize("part", ["training", "endpoint"])
def test_autoscalers_and_tokens(part: str) -> None:
    cluster = ray_clusters()[part]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "srgan-ray-token"}
    assert cluster["enableInTreeAutoscaling"] is True
    autoscaler = cluster["autoscalerOptions"]
    assert autoscaler["version"] == "v2"
    assert autoscaler["securityContext"]["allowPrivilegeEscalation"] is False
    assert autoscaler["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert set(autoscaler["resources"]["limits"]) == {"cpu", "memory"}


def test_the_namespace_refuses_other_pods() -> None:
    assert the("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_secret_stands_in_a_file() -> None:
    assert not of_kind("Secret")
    for path in (*MANIFESTS, README, ROOT / "cluster" / "serve.yaml"):
        assert not SECRET_VALUE.search(path.read_text()), path
    for each in groups():
        assert not [item for item in each.container["env"] if SECRET_NAME.search(item["name"])]
        assert each.container["envFrom"] == [{"secretRef": {"name": "srgan-ray-storage", "optional": True}}]


def test_the_endpoint_comes_before_training() -> None:
    values = {each["metadata"]["name"]: each["value"] for each in of_kind("PriorityClass")}
    for each in groups():
        assert each.pod["priorityClassName"] == f"srgan-ray-{each.part}"
    assert values["srgan-ray-endpoint"] > values["srgan-ray-training"]


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def comes_from(peer: dict[str, Any], source: dict[str, Any]) -> bool:
    assert set(peer) <= {"podSelector", "namespaceSelector"}
    namespace_labels = {"kubernetes.io/metadata.name": source["namespace"]}
    is_namespace = (
        matches(peer["namespaceSelector"], namespace_labels)
        if "namespaceSelector" in peer
        else source["namespace"] == NAMESPACE
    )
    return is_namespace and matches(peer.get("podSelector", {}), source["labels"])


def lets_in(target: Group, source: dict[str, Any], port: int) -> bool:
    """Whether a connection passes, by the rules of NetworkPolicy: a pod that any policy selects takes only what one of
    them names."""
    policies = [
        each["spec"] for each in of_kind("NetworkPolicy") if matches(each["spec"]["podSelector"], target.labels)
    ]
    assert all(policy["policyTypes"] == ["Ingress"] for policy in policies)
    rules = [rule for policy in policies for rule in policy.get("ingress", [])]
    return not policies or any(
        ("from" not in rule or any(comes_from(peer, source) for peer in rule["from"]))
        and ("ports" not in rule or port in [allowed["port"] for allowed in rule["ports"]])
        for rule in rules
    )


def own(part: str) -> dict[str, Any]:
    return {"namespace": NAMESPACE, "labels": group(part, "head").labels}


@each_group
def test_only_the_endpoints_port_is_open(group: Group) -> None:
    is_endpoint = group.part == "endpoint"
    port = serve_config()["http_options"]["port"]
    assert lets_in(group, OUTSIDE, port) is is_endpoint
    stranger = {"namespace": NAMESPACE, "labels": {}}
    other = own("training" if is_endpoint else "endpoint")
    for source in (OUTSIDE, stranger, other):
        assert not [port for port in RAYS_PORTS if lets_in(group, source, port)]
    assert all(lets_in(group, own(group.part), port) for port in (*RAYS_PORTS, 20000))
    assert [port for port in RAYS_PORTS if lets_in(group, OPERATOR, port)] == [8265] * (group.name == "head")
    assert [port for port in RAYS_PORTS if lets_in(group, PROMETHEUS, port)] == [group.port_numbers["metrics"]]


def test_pods_outside_both_clusters_are_shut_too() -> None:
    [shut] = [each["spec"] for each in of_kind("NetworkPolicy") if each["spec"]["podSelector"] == {}]
    assert shut == {"podSelector": {}, "policyTypes": ["Ingress"]}


@each_group
def test_prometheus_finds_every_node(group: Group) -> None:
    monitor = the("PodMonitor")["spec"]
    assert matches(monitor["selector"], group.labels)
    assert [each["port"] for each in monitor["podMetricsEndpoints"]] == ["metrics"]
    assert group.port_numbers["metrics"] == 8080
    assert ("serve" in group.port_numbers) is (group.part == "endpoint")


# The page


def code_of(page: str) -> str:
    return "\n".join(re.findall(r"```bash\n(.*?)```", page, re.S)).replace("\\\n", " ")


def test_the_page_names_every_manifest_and_no_other() -> None:
    named = set(re.findall(r"[\w./]*?(\w+\.yaml)", README.read_text()))
    assert named == {path.name for path in MANIFESTS} | {"serve.yaml"}
    table = "".join(re.findall(r"^\| (`\w+\.yaml`.*?) \|", README.read_text(), re.M))
    assert set(re.findall(r"\w+\.yaml", table)) == {path.name for path in MANIFESTS}
    for path in re.findall(r"cluster/\S+\.\w+", code_of(README.read_text())):
        assert list(ROOT.glob(path)), path


def test_the_pages_sed_puts_in_bucket_and_registry_everywhere() -> None:
    [script] = re.findall(r"sed -i '(.*?)'", code_of(README.read_text()))
    for path in (*MANIFESTS, ROOT / "cluster" / "serve.yaml"):
        edited = subprocess.run(
            ["sed", script], input=path.read_text(), capture_output=True, text=True, check=True
        ).stdout
        assert not re.search(r"s3://srgan-ray/|image: srgan-ray", edited), path
        assert edited.count("YOUR_") == len(re.findall(r"s3://|image:", edited)), path


def test_the_pages_patches_reach_the_nodes_with_gpus() -> None:
    patches = re.findall(r"patch raycluster (\S+) --type json\s+-p '(.*?)'", code_of(README.read_text()))
    assert len(patches) == 2
    for name, patch in patches:
        [operation] = json.loads(patch)
        assert name == the("RayCluster")["metadata"]["name"]
        assert operation["op"] == "replace"
        assert operation["path"] == "/spec/workerGroupSpecs/1/minReplicas"
        workers = the("RayCluster")["spec"]["workerGroupSpecs"][1]
        assert workers["groupName"] == "gpu"
        assert operation["value"] <= workers["maxReplicas"]


def test_the_page_makes_the_secrets_that_the_manifests_want() -> None:
    made = set(re.findall(r"create secret generic (\S+)", code_of(README.read_text())))
    wanted = {each.container["envFrom"][0]["secretRef"]["name"] for each in groups()}
    assert made == wanted | {cluster["authOptions"]["secretName"] for cluster in ray_clusters().values()}
    assert "--from-literal=auth_token=" in code_of(README.read_text())


def test_the_page_says_what_the_pods_take() -> None:
    rows = re.findall(r"^\| `(\w+)`, (head|`\w+`) \|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|$", README.read_text(), re.M)
    said = {(part, name.strip("`")): [cell.strip() for cell in cells] for part, name, *cells in rows}
    assert set(said) == {(each.part, each.name) for each in groups()}
    for each in groups():
        spec = each.spec
        pods = "1" if each.name == "head" else f"{spec['minReplicas']} to {spec['maxReplicas']}"
        cpus = each.limits["cpu"] + (0.5 if each.name == "head" else 0)  # the autoscaler's
        memory = each.limits["memory"] / 2**30 + (1 if each.name == "head" else 0)
        gpus = each.limits.get("nvidia.com/gpu", 0)
        assert said[each.part, each.name] == [pods, f"{cpus:g}", f"{memory:g} GiB", f"{gpus:g}"]
