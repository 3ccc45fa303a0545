"""Checks rendered manifests: built-in kinds by the schemas of kubernetes-validate, also those within
a JobSet; JobSet and PodMonitor by the schemas of `schemas/`; and what no schema knows: security,
probes, and that every name that is used is there."""

import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

VERSION = "1.34"
# Made by hand, as docs/clusters.md says.
BY_HAND = {("Secret", "tandem-credentials"), ("Secret", "tandem-store"),
           ("PersistentVolumeClaim", "tandem-models")}
# A setting of ours, in a pod's environment.
PREFIX = "TANDEM__"


def schema(name):
    path = pathlib.Path(__file__).parent / "schemas" / f"{name}.json"
    return json.loads(path.read_text())


def check_kind(document):
    kind = document["kind"]
    if kind in ("JobSet", "PodMonitor"):
        jsonschema.validate(document, schema(kind.lower()))
        for job in document["spec"].get("replicatedJobs", []):
            inner = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]},
                     "spec": job["template"]["spec"]}
            kubernetes_validate.validate(inner, VERSION, strict=True)
    else:
        kubernetes_validate.validate(document, VERSION, strict=True)


def pods(document):
    """Name, number of pods, and pod template."""
    spec = document.get("spec", {})
    if document["kind"] == "Deployment":
        yield document["metadata"]["name"], spec["replicas"], spec["template"]
    for job in spec.get("replicatedJobs", []):
        inner = job["template"]["spec"]
        yield document["metadata"]["name"], inner["completions"], inner["template"]


def check_pod(name, template, known):
    spec = template["spec"]
    security = spec["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] == 10001, f"{name}: runs as root"
    assert security["seccompProfile"]["type"] == "RuntimeDefault", f"{name}: no seccomp"
    assert spec["automountServiceAccountToken"] is False, f"{name}: holds a token of the cluster"
    for volume in spec["volumes"]:
        for kind, place, key in [("ConfigMap", "configMap", "name"),
                                 ("Secret", "secret", "secretName"),
                                 ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName")]:
            if place in volume:
                there = (kind, volume[place][key]) in known
                assert there, f"{name}: no {kind} {volume[place][key]}"
    (container,) = spec["containers"]
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"], name
    assert own["capabilities"]["drop"] == ["ALL"], f"{name}: keeps capabilities"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        command = container[probe]["exec"]["command"]
        assert command[:2] == ["coordinator", "healthcheck"], f"{name}: {probe}"
    assert container["resources"]["limits"]["memory"], f"{name}: no bound of memory"
    assert ":" in container["image"], f"{name}: the image has no tag"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}, f"{name}: volumes"
    environment = {source["configMapRef"]["name"] for source in container["envFrom"]
                   if "configMapRef" in source}
    assert all(("ConfigMap", of) in known for of in environment), f"{name}: {environment}"


def check_counts(counts, commands):
    """The coordinator waits for as many as there are."""
    flags = {"tandem-actor": "--actors", "tandem-learner": "--learners",
             "tandem-weak-server": "--weak-servers"}
    for name, flag in flags.items():
        told = [part for part in commands["tandem-coordinator"] if part.startswith(f"{flag}=")]
        told = int(told[0].split("=")[1]) if told else 1
        assert told == counts[name], f"{flag} is {told} but {name} has {counts[name]} pods"


def main(path):
    documents = [d for d in yaml.safe_load_all(open(path)) if d]
    known = {(d["kind"], d["metadata"]["name"]) for d in documents} | BY_HAND
    counts, commands = {}, {}
    for document in documents:
        check_kind(document)
        for name, count, template in pods(document):
            check_pod(name, template, known)
            counts[name] = count
            commands[name] = template["spec"]["containers"][0]["command"]
            labels = template["metadata"]["labels"]
            assert labels["app.kubernetes.io/part-of"] == "tandem", f"{name}: no network policy"
    check_counts(counts, commands)
    (service,) = [d for d in documents if d["kind"] == "Service"]
    environment = [d["data"] for d in documents if d["kind"] == "ConfigMap"
                   and d["metadata"]["name"].startswith("tandem-environment")]
    (environment,) = environment
    address = environment[f"{PREFIX}COORDINATOR__ADDRESS"]
    port = service["spec"]["ports"][0]["port"]
    assert address == f"{service['metadata']['name']}:{port}", address
    print(f"{path}: {len(documents)} objects are sound")


if __name__ == "__main__":
    for path in sys.argv[1:]:
        main(path)
