"""A real YARN on loopback: a ResourceManager and three NodeManagers, from Maven Central's artifacts.

All files are in one folder, and all processes are gone when the context ends. The cluster's own configuration is in
files, as on EMR: what is submitted need not know where it runs. Two nodes have the label CORE, on which masters
run, and one has none, as a task node; the limits are those of the template.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from xml.sax.saxutils import escape

import psutil
import pyspark

from conf.emr.stack import template_of
from conf.spark.java import find_java
from conf.spark.s3_client import PACKAGES, fetch_jars
from tests.support.processes import working_in
from tests.support.servers import free_port
from tests.support.waiting import wait_until

SPARK_HOME = Path(pyspark.__file__).parent
_JARS = tuple(
    f"org.apache.hadoop:hadoop-{name}:3.4.2"  # of Spark's own Hadoop, and of EMR's
    for name in (
        *("yarn-server-resourcemanager", "yarn-server-nodemanager", "yarn-client", "common"),
        "yarn-server-timelineservice",  # the ResourceManager does not start without its classes
    )
)
_RESOURCE_MANAGER = "org.apache.hadoop.yarn.server.resourcemanager.ResourceManager"
_NODE_MANAGER = "org.apache.hadoop.yarn.server.nodemanager.NodeManager"
_APPLICATION_MASTER = "org.apache.spark.deploy.yarn.ApplicationMaster"
_CORE = "CORE"
_NODES = (_CORE, _CORE, "")
"""The label of each node."""
_MASTERS_LABEL = {  # EMR has a name of its own for what Hadoop has
    "yarn.node-labels.am.default-node-label-expression": (
        "yarn.resourcemanager.node-labels.am.default-node-label-expression"
    ),
}
_SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Ten JVMs that live for a minute share the cores: what they compile well would not pay."""
_LOG4J = """\
log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %c{1}: %m%n
"""


@dataclass(frozen=True)
class Yarn:
    """A running cluster.

    Attributes:
        folder: holds all its files.
        web: the address of the ResourceManager's REST interface.
        environment: of whoever submits to it.
    """

    folder: Path
    web: str
    environment: Mapping[str, str]

    def submit(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start spark-submit, which waits for the end of the application; what it says is in submit.log."""
        with (self.folder / "submit.log").open("ab") as log:
            return subprocess.Popen(
                [str(SPARK_HOME / "bin/spark-submit"), *arguments],
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def application(self, verb: str) -> dict[str, Any]:
        """What YARN says of the one application that runs this verb."""
        applications = (self._ask("apps")["apps"] or {}).get("app", ())
        [application] = [one for one in applications if one["name"] == f"picture-features {verb}"]
        return cast("dict[str, Any]", application)

    def attempts(self, verb: str) -> int:
        """How many attempts it has had."""
        return len(self._ask(f"apps/{self.application(verb)['id']}/appattempts")["appAttempts"]["appAttempt"])

    def masters_labels(self) -> set[str]:
        """The labels of the nodes on which masters run now."""
        nodes = {node["nodeHTTPAddress"]: node.get("nodeLabels", [""]) for node in self._ask("nodes")["nodes"]["node"]}
        applications = self._ask("apps?states=RUNNING")["apps"]["app"]
        return {label for one in applications for label in nodes[one["amHostHttpAddress"]]}

    def kill_master(self, verb: str) -> None:
        """Kill -9 the application master, which in cluster mode is the driver's JVM."""
        name = self.application(verb)["id"]
        masters = [one for one in self.processes() if _APPLICATION_MASTER in one.info["cmdline"]]
        [master] = [one for one in masters if one.info["name"] == "java" and name in one.info["cwd"]]
        master.kill()

    def processes(self) -> list[psutil.Process]:
        """All that were started here, those included that lost their parents: they work in this folder or below."""
        return working_in(self.folder)

    def said(self) -> str:
        """The ends of all logs, for whoever reads of a failure."""
        files = [file for file in self.folder.rglob("*") if file.name in {"stdout", "stderr"} or file.suffix == ".log"]
        return "\n".join(f"--- {file}\n{file.read_text(errors='replace')[-3000:]}" for file in sorted(files))

    def _ask(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.web}/ws/v1/cluster/{path}", timeout=60) as answer:
            return cast("dict[str, Any]", json.load(answer))


def fetch_yarn(log: Path) -> list[str]:
    """The jars of YARN, which are fetched for most of a minute; `log` gets what the fetching says."""
    return fetch_jars(_JARS, (), log)


@contextmanager
def yarn(folder: Path, jars: Sequence[str], container_environment: Mapping[str, str]) -> Iterator[Yarn]:
    """A cluster until the context ends.

    Args:
        folder: for all its files.
        jars: from `fetch_yarn`.
        container_environment: what containers find in their environment, as on EMR an instance's role.
    """
    java = find_java()
    web = f"127.0.0.1:{free_port()}"
    _configure(folder, web, container_environment)
    nodes = [_configure_node(folder, number, label) for number, label in enumerate(_NODES)]
    environment = {
        "HADOOP_CONF_DIR": str(folder / "hadoop"),
        "SPARK_CONF_DIR": str(folder / "spark"),
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "JAVA_HOME": str(java),
        "JAVA_TOOL_OPTIONS": _SHORT_LIVED,
    }
    classes = os.pathsep.join([str(folder / "hadoop"), *jars])
    cluster = Yarn(folder, f"http://{web}", environment)
    try:
        with ExitStack() as daemons:
            daemons.enter_context(_daemon(java, classes, _RESOURCE_MANAGER, folder, environment))
            _make_label(cluster)
            for node in nodes:
                of_node = os.pathsep.join([str(node), classes])
                daemons.enter_context(_daemon(java, of_node, _NODE_MANAGER, node, environment))
            _wait_for_nodes(cluster)
            yield cluster
    finally:
        _kill_all(folder)


def _configure(folder: Path, web: str, container_environment: Mapping[str, str]) -> None:
    of_emr = _of_template()
    manager = {
        name: f"127.0.0.1:{free_port()}"
        for name in ("address", "scheduler.address", "resource-tracker.address", "admin.address")
    }
    yarn_site = {
        **{f"yarn.resourcemanager.{name}": address for name, address in manager.items()},
        "yarn.resourcemanager.webapp.address": web,
        "yarn.resourcemanager.scheduler.class": (
            "org.apache.hadoop.yarn.server.resourcemanager.scheduler.capacity.CapacityScheduler"
        ),
        "yarn.node-labels.fs-store.root-dir": f"file://{folder}/labels",
        "yarn.node-labels.configuration-type": "distributed",
        **{_MASTERS_LABEL.get(key, key): value for key, value in of_emr["yarn-site"].items()},
        "yarn.scheduler.minimum-allocation-mb": "128",
        "yarn.scheduler.maximum-allocation-mb": "12288",
        "yarn.nodemanager.resource.memory-mb": "12288",  # what EMR gives YARN on a node of 4 cores and 16 GB
        "yarn.nodemanager.resource.cpu-vcores": "4",
        "yarn.nodemanager.vmem-check-enabled": "false",  # as on EMR
        "yarn.nodemanager.disk-health-checker.enable": "false",  # it stops at a disk that is 90 % full
    }
    scheduler = {  # one queue, which may use all nodes, as on EMR
        "yarn.scheduler.capacity.root.queues": "default",
        "yarn.scheduler.capacity.root.default.capacity": "100",
        **{
            f"yarn.scheduler.capacity.{queue}.accessible-node-labels{of}": value
            for queue in ("root", "root.default")
            for of, value in {"": "*", f".{_CORE}.capacity": "100"}.items()
        },
        **of_emr["capacity-scheduler"],
    }
    spark = {
        **_clients_of_s3(),  # on EMR they are on the class path
        "spark.yarn.jars": f"local:{SPARK_HOME}/jars/*",
        "spark.yarn.stagingDir": f"file://{folder}/staging",
    }
    of_containers = {"SPARK_LOCAL_IP": "127.0.0.1", "JAVA_TOOL_OPTIONS": _SHORT_LIVED, **container_environment}
    for name, value in of_containers.items():
        spark |= {f"spark.yarn.appMasterEnv.{name}": value, f"spark.executorEnv.{name}": value}
    (folder / "hadoop").mkdir(parents=True)
    (folder / "spark").mkdir()
    (folder / "hadoop/core-site.xml").write_text(_as_xml({"fs.defaultFS": "file:///"}))
    (folder / "hadoop/yarn-site.xml").write_text(_as_xml(yarn_site))
    (folder / "hadoop/capacity-scheduler.xml").write_text(_as_xml(scheduler))
    (folder / "hadoop/log4j.properties").write_text(_LOG4J)
    (folder / "spark/spark-defaults.conf").write_text("".join(f"{key} {value}\n" for key, value in spark.items()))


def _configure_node(folder: Path, number: int, label: str) -> Path:
    """The folder of a node, whose configuration is that of the cluster and its own."""
    node = folder / f"node-{number}"
    addresses = {name: f"127.0.0.1:{free_port()}" for name in ("address", "localizer.address", "webapp.address")}
    own = {
        **{f"yarn.nodemanager.{name}": address for name, address in addresses.items()},
        "yarn.nodemanager.local-dirs": str(node / "local"),
        "yarn.nodemanager.log-dirs": str(node / "logs"),
        "yarn.nodemanager.node-labels.provider": "config",
        "yarn.nodemanager.node-labels.provider.configured-node-partition": label,
    }
    node.mkdir()
    of_cluster = (folder / "hadoop/yarn-site.xml").read_text().removesuffix("</configuration>\n")
    (node / "yarn-site.xml").write_text(of_cluster + _as_xml(own).removeprefix("<configuration>\n"))
    return node


def _of_template() -> dict[str, dict[str, str]]:
    """What the template of the cluster sets, by classification."""
    cluster = template_of("cluster")["Resources"]["Cluster"]["Properties"]
    return {one["Classification"]: one["ConfigurationProperties"] for one in cluster["Configurations"]}


def _clients_of_s3() -> dict[str, str]:
    """Spark's properties that fetch S3A alone: EMR may have none of Spark's own classes for S3."""
    packages = PACKAGES["spark.jars.packages"].split(",")
    return {**PACKAGES, "spark.jars.packages": ",".join(one for one in packages if "spark-hadoop-cloud" not in one)}


def _as_xml(properties: Mapping[str, str]) -> str:
    entries = [
        f"<property><name>{escape(key)}</name><value>{escape(value)}</value></property>"
        for key, value in properties.items()
    ]
    return "\n".join(["<configuration>", *entries, "</configuration>", ""])


@contextmanager
def _daemon(java: Path, classes: str, main: str, folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    options = ["-Xmx512m", "--add-opens=java.base/java.lang=ALL-UNNAMED"]
    with (folder / f"{main.rpartition('.')[2]}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(java / "bin/java"), *options, "-cp", classes, main],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.kill()  # nothing here is used again; told to end, a node takes 20 seconds
        process.wait()


def _make_label(cluster: Yarn) -> None:
    """Tell the ResourceManager of the label, once it answers. Others may use what its nodes have left."""
    label = json.dumps({"nodeLabelInfo": [{"name": _CORE, "exclusivity": False}]}).encode()
    url = f"{cluster.web}/ws/v1/cluster/add-node-labels"
    request = urllib.request.Request(url, data=label, headers={"Content-Type": "application/json"}, method="POST")

    def is_made() -> bool:
        with suppress(OSError), urllib.request.urlopen(request, timeout=10):
            return True
        return False

    wait_until(is_made, every=0.2, said=cluster.said)


def _wait_for_nodes(cluster: Yarn) -> None:
    def are_there() -> bool:
        return bool(cluster._ask("metrics")["clusterMetrics"]["activeNodes"] == len(_NODES))

    wait_until(are_there, every=0.2, said=cluster.said)


def _kill_all(folder: Path) -> None:
    """Also those that others start while they are looked for."""
    while processes := working_in(folder):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
