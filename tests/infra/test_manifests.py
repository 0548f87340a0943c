"""What one file of infra/k8s says of another, of the image and of the code is true."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from gpt.processes.launch import RENDEZVOUS
from gpt.processes.trees.running import GRACE_SECONDS
from tests import ROOT

K8S = ROOT / "infra/k8s"
OURS = "gpt-pretrain"
TRAINS = ("worker", "train")


class Pod(NamedTuple):
    """The pods that a Deployment, StatefulSet or Job makes."""

    name: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All of it, those that run first too."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """Its ports by name."""
        return {port["name"]: port["containerPort"] for each in self.containers for port in each.get("ports", [])}


@cache
def resources() -> list[dict[str, Any]]:
    files = [path for path in K8S.rglob("*.yaml") if path.name != "kustomization.yaml"]
    return [document for path in sorted(files) for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def of_kind(*kinds: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in resources() if each["kind"] in kinds}


def pods() -> list[Pod]:
    made = of_kind("Deployment", "StatefulSet", "Job")
    templates = {name: each["spec"]["template"] for name, each in made.items()}
    return [Pod(name, template["metadata"]["labels"], template["spec"]) for name, template in templates.items()]


def kustomization(folder: str = ".") -> dict[str, Any]:
    return yaml.safe_load((K8S / folder / "kustomization.yaml").read_text(encoding="utf-8"))


def selected(selector: dict[str, Any]) -> list[Pod]:
    """Pods that a selector of labels means, written as in a Service or as in all other kinds."""
    wanted = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions), "no others are read here"
    return [
        pod
        for pod in pods()
        if wanted.items() <= pod.labels.items()
        and all(pod.labels.get(each["key"]) in each["values"] for each in expressions)
    ]


def values_of(key: str, node: Any) -> Iterator[Any]:
    """Yield what stands under a key, however deep; of a list, what is in it."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield from value if isinstance(value, list) else [value]
            yield from values_of(key, value)
    elif isinstance(node, list):
        for value in node:
            yield from values_of(key, value)


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container.get("env", [])}


def test_every_file_is_part_of_a_kustomization_and_every_resource_of_the_namespace() -> None:
    for folder in (".", "train"):
        files = {path.name for path in (K8S / folder).glob("*.yaml")}
        assert files - {"kustomization.yaml"} == set(kustomization(folder)["resources"])
    (namespace,) = of_kind("Namespace")
    assert {each["metadata"].get("namespace", namespace) for each in resources()} == {namespace}
    assert len({(each["kind"], each["metadata"]["name"]) for each in resources()}) == len(resources())


def test_selectors_mean_the_pods_of_their_name() -> None:
    """Also those of network.yaml: a misspelt label there would let nobody in, or everybody."""
    for name, each in of_kind("Deployment", "StatefulSet", "PodDisruptionBudget").items():
        assert [pod.name for pod in selected(each["spec"]["selector"])] == [name]
    for name, each in of_kind("Service").items():
        assert [pod.name for pod in selected(each["spec"]["selector"])] == [name]
    for name, each in of_kind("NetworkPolicy").items():
        meant = [pod.name for pod in selected(each["spec"]["podSelector"])]
        assert meant == ([pod.name for pod in pods()] if name == "nobody" else [name])
        for selector in values_of("podSelector", each["spec"].get("ingress", [])):
            named = [*selector.get("matchLabels", {}).values(), *values_of("values", selector)]
            assert sorted(named) == sorted(pod.name for pod in selected(selector))


def test_every_port_exists() -> None:
    """Those of services and policies in the pods that these mean, those of probes in their own."""
    for each in of_kind("Service").values():
        (pod,) = selected(each["spec"]["selector"])
        for port in each["spec"]["ports"]:
            assert pod.ports[port["targetPort"]] == port["port"], pod.name
    for each in of_kind("NetworkPolicy").values():
        for port in values_of("ports", each["spec"]):
            assert all(port["port"] in pod.ports for pod in selected(each["spec"]["podSelector"]))
    for pod in pods():
        for probe in values_of("httpGet", pod.spec):
            assert probe["port"] in pod.ports


def test_servers_are_asked_at_the_names_and_ports_of_services_that_let_the_asker_in() -> None:
    services, found = of_kind("Service"), 0
    policies = of_kind("NetworkPolicy")
    for pod in pods():
        for text in {text for each in pod.containers for text in environment_of(each).values()}:
            for name, port in re.findall(r"(?:http://|@)([a-z]+)(?::(\d+))?/?", text):
                assert not port or int(port) in [each["port"] for each in services[name]["spec"]["ports"]], text
                admitted = list(values_of("podSelector", policies[name]["spec"]["ingress"]))
                assert any(pod in selected(selector) for selector in admitted), f"{pod.name} → {name}"
                found += 1
    assert found == 5


def test_probes_ask_what_the_servers_answer() -> None:
    asked = {pod.name: {probe["path"] for probe in values_of("httpGet", pod.spec)} for pod in pods()}
    assert asked["mlflow"] == {"/health"}
    assert asked["prefect"] == {"/api/health"}
    assert asked["worker"] == asked["train"] == set()


def test_all_that_pods_refer_to_is_there_or_generated() -> None:
    generated = kustomization()
    secrets = {each["name"] for each in generated["secretGenerator"]}
    configurations = {each["name"] for each in generated["configMapGenerator"]}
    for pod in pods():
        volumes = {each["name"]: each for each in pod.spec.get("volumes", [])}
        templates = of_kind("StatefulSet").get(pod.name, {}).get("spec", {}).get("volumeClaimTemplates", [])
        mounted = {each["name"] for container in pod.containers for each in container.get("volumeMounts", [])}
        assert mounted == volumes.keys() | {each["metadata"]["name"] for each in templates}
        claims = {each["claimName"] for each in values_of("persistentVolumeClaim", pod.spec)}
        assert claims <= of_kind("PersistentVolumeClaim").keys()
        assert {each["name"] for each in values_of("configMap", pod.spec)} <= configurations
        named = [*values_of("secretRef", pod.spec), *values_of("secretKeyRef", pod.spec)]
        assert {each["name"] for each in named} | {*values_of("secretName", pod.spec)} <= secrets


def test_secrets_that_pods_name_stand_in_the_example_and_git_ignores_the_real_ones() -> None:
    example = (K8S / "secrets.env.example").read_text(encoding="utf-8")
    keys = {line.partition("=")[0] for line in example.splitlines() if not line.startswith("#")}
    spec = [pod.spec for pod in pods()]
    assert {each["key"] for each in values_of("secretKeyRef", spec)} <= keys
    assert {item["key"] for each in values_of("secret", spec) for item in each["items"]} <= keys
    assert kustomization()["secretGenerator"][0]["envs"] == ["secrets.env"]
    assert "/secrets.env" in (K8S / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_databases_are_made_under_the_names_by_which_servers_ask_for_them() -> None:
    (made,) = kustomization()["configMapGenerator"][0]["literals"]
    first = environment_of(next(pod for pod in pods() if pod.name == "postgres").spec["containers"][0])["POSTGRES_DB"]
    addresses = " ".join(text for pod in pods() for each in pod.containers for text in environment_of(each).values())
    assert {first, *re.findall(r"CREATE DATABASE (\w+);", made)} == set(re.findall(r"@postgres/(\w+)", addresses))


def test_machines_meet_at_pod_0_of_the_job_by_the_name_that_its_headless_service_gives_it() -> None:
    job, service = of_kind("Job")["train"], of_kind("Service")["train"]
    (pod,) = [pod for pod in pods() if pod.name == "train"]
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    assert pod.spec["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]
    assert job["spec"]["completionMode"] == "Indexed"
    for container in pod.containers:  # the first waits for the name, the second goes there
        host, _, port = environment_of(container)[RENDEZVOUS].partition(":")
        assert host == f"{name}-0.{pod.spec['subdomain']}.{namespace}.svc.cluster.local"
        assert int(port) in [each["port"] for each in service["spec"]["ports"]]
    assert RENDEZVOUS in pod.spec["initContainers"][0]["args"][-1]


def test_a_training_on_several_machines_shares_its_folder_and_all_of_them_stay() -> None:
    job = of_kind("Job")["train"]["spec"]
    budget = of_kind("PodDisruptionBudget")["train"]["spec"]["minAvailable"]
    assert job["completions"] == job["parallelism"] == budget > 1
    assert f"num_machines: {budget}" in (K8S / "train/job.yaml").read_text(encoding="utf-8")
    places = {
        (pod.name, mount["mountPath"], mount.get("subPath"))
        for pod in pods()
        for container in pod.spec["containers"]
        for mount in container.get("volumeMounts", [])
        if mount["name"] == "project"
    }
    assert places == {(name, "/project", "project") for name in TRAINS}
    assert of_kind("PersistentVolumeClaim")["project"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_job_goes_on_after_any_failure_but_the_users() -> None:
    job = of_kind("Job")["train"]["spec"]
    assert job["template"]["spec"]["restartPolicy"] == "Never", "Kubernetes takes the policy with no other"
    ends, ignores = job["podFailurePolicy"]["rules"]
    assert ends["action"] == "FailJob"
    assert ends["onExitCodes"]["values"] == [2]
    assert ends["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    assert (ignores["action"], ignores["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")


def test_what_trains_is_told_of_a_stop_and_has_the_time_to_save() -> None:
    for pod in pods():
        if pod.name in TRAINS:
            assert pod.spec["terminationGracePeriodSeconds"] > 2 * GRACE_SECONDS
        # `command` would stand in the place of the image's entrypoint, which passes signals on.
        assert not [each for each in pod.containers if each["image"].startswith(OURS) and "command" in each]
    # Prefect's own worker tells nothing to what it runs.
    (worker,) = [pod for pod in pods() if pod.name == "worker"]
    assert worker.spec["containers"][0]["args"] == ["python", "-m", "infra.schedule"]


def test_pods_have_the_user_of_the_image_and_no_privilege() -> None:
    dockerfile = (ROOT / "infra/Dockerfile").read_text(encoding="utf-8")
    uid = re.search(r"--uid (\d+)", dockerfile)
    assert uid is not None
    for pod in pods():
        user = pod.spec["securityContext"]
        if any(each["image"].startswith(OURS) for each in pod.containers):
            assert user["runAsUser"] == user["runAsGroup"] == int(uid[1])
        assert user["runAsNonRoot"]
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False, "MLFLOW_PORT=tcp://… would be taken for an option"
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys()


def test_no_volume_lies_over_the_libraries_of_the_image() -> None:
    environment = re.search(r"VIRTUAL_ENV=(\S+)", (ROOT / "infra/Dockerfile").read_text(encoding="utf-8"))
    assert environment is not None
    mounts = [each["mountPath"] for pod in pods() for each in values_of("volumeMounts", pod.spec)]
    assert [path for path in mounts if Path(environment[1]).is_relative_to(path)] == []


def test_one_image_of_ours_everywhere_and_postgres_as_in_compose() -> None:
    images = {container["image"] for pod in pods() for container in pod.containers}
    ours, other = sorted(images)
    assert ours.partition(":")[0] == OURS
    assert f"POSTGRES_IMAGE:-{other}}}" in (ROOT / "infra/compose.yaml").read_text(encoding="utf-8")
    assert kustomization()["images"] == kustomization("train")["images"]
    assert [each["name"] for each in kustomization()["images"]] == [OURS]


def test_kustomize_builds_them_and_a_gpu_goes_to_what_trains(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    copy = tmp_path / "k8s"
    shutil.copytree(K8S, copy)
    shutil.copyfile(copy / "secrets.env.example", copy / "secrets.env")
    limits = {}
    for folder in (copy, copy / "train"):
        file = folder / "kustomization.yaml"
        file.write_text(file.read_text(encoding="utf-8").replace("# components:", "components:"), encoding="utf-8")
        built = subprocess.run(["kubectl", "kustomize", folder], check=True, capture_output=True, text=True).stdout
        for each in yaml.safe_load_all(built):
            for container in values_of("containers", each):
                limits[container["name"]] = container["resources"]["limits"].get("nvidia.com/gpu")
    assert limits == {"postgres": None, "mlflow": None, "prefect": None, "worker": 1, "metrics": None, "train": 1}
