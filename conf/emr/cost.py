"""The cost of a backlog and of a month of streaming, from a measured rate and a table of prices that users may edit."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conf.errors import SettingsError
from conf.settings import Settings

PRICES = Path(__file__).with_name("prices.yaml")

MEASURED_RATE = 83.0
"""Pictures of 100x100 pixels a second on one core: 223 on two cores where the machine was slowest, times 0.74, the
median of replay over a bare loop (docs/benchmarks.md). It was not measured on EMR."""

_HOURS_A_MONTH = 730
_CORES_PER_NODE = 4
_EXECUTOR_SHARE = 0.9  # of the cores, over a backlog: the last micro-batches do not fill them
_SQS_PER_PICTURE = 3  # docs/benchmarks.md: 1.2 to 3
_SQS_A_MONTH_IDLE = 1.3e6
_REQUESTS_PER_BATCH = 53  # of Spark's checkpoint, the log of manifests, and ours
_PICTURES_PER_BATCH = 1000
_ROW_BYTES = 400  # k = 50
_LOG_BYTES_PER_BATCH = 600
_ENDPOINTS = 6
_METRICS = 6
_ALARMS = 10  # by the metrics that they look at
_GIGABYTE = 1e9


@dataclass(frozen=True)
class Line:
    """One item of the bill.

    Attributes:
        item: what for.
        quantity: how much of it, with its unit.
        usd: its price.
    """

    item: str
    quantity: str
    usd: float


@dataclass(frozen=True)
class Job:
    """What is to be paid for.

    Attributes:
        pictures: to featurize once.
        rate: pictures a second on one core.
        nodes: task nodes on spot, beside primary and core nodes.
        core_nodes: on demand.
        megabytes: of a picture.
    """

    pictures: float
    rate: float
    nodes: int
    core_nodes: int
    megabytes: float

    @property
    def hours(self) -> float:
        """That the backlog takes, with all nodes."""
        cores = (self.nodes + self.core_nodes) * _CORES_PER_NODE * _EXECUTOR_SHARE
        return self.pictures / (self.rate * cores) / 3600


def backlog(job: Job, prices: Mapping[str, Any]) -> Iterator[Line]:
    """Featurize all pictures as fast as the nodes can, once."""
    node, s3 = prices["node_hour"], prices["s3"]
    fixed = job.core_nodes + 1
    batches = job.pictures / _PICTURES_PER_BATCH
    yield Line(
        "nodes on demand", f"{fixed} x {job.hours:,.1f} h", fixed * job.hours * (node["on_demand"] + _beside(node))
    )
    yield Line(
        "nodes on spot", f"{job.nodes} x {job.hours:,.1f} h", job.nodes * job.hours * (node["spot"] + _beside(node))
    )
    yield _network(job.hours, prices)
    yield Line("S3, read the pictures", _count(job.pictures), job.pictures / 1000 * s3["get_thousand"])
    requests = batches * _REQUESTS_PER_BATCH
    yield Line("S3, checkpoint and tables", _count(requests), requests / 1000 * s3["put_thousand"])
    requests = job.pictures * _SQS_PER_PICTURE
    yield Line("SQS, notifications", _count(requests), requests / 1e6 * prices["sqs_million"])
    gigabytes = batches * _LOG_BYTES_PER_BATCH / _GIGABYTE
    yield Line("logs", f"{gigabytes:,.2f} GB", gigabytes * prices["log_gigabyte"])


def month(job: Job, prices: Mapping[str, Any]) -> Iterator[Line]:
    """A month of a stream that waits: what is paid even if nothing comes, and what is stored."""
    node, s3 = prices["node_hour"], prices["s3"]
    fixed = job.core_nodes + 1
    hours = _HOURS_A_MONTH
    yield Line("nodes on demand", f"{fixed} x {hours} h", fixed * hours * (node["on_demand"] + _beside(node)))
    yield _network(hours, prices)
    yield Line("SQS, looks", _count(_SQS_A_MONTH_IDLE), _SQS_A_MONTH_IDLE / 1e6 * prices["sqs_million"])
    watching = _METRICS * prices["metric_month"] + _ALARMS * prices["alarm_month"] + prices["dashboard_month"]
    yield Line("metrics, alarms, dashboard, key", f"{_METRICS} metrics", watching + prices["kms_month"])
    gigabytes = job.pictures * job.megabytes * 1e6 / _GIGABYTE
    yield Line("S3, store the pictures", f"{gigabytes:,.0f} GB", gigabytes * s3["gigabyte_month"])
    gigabytes = job.pictures * _ROW_BYTES / _GIGABYTE
    yield Line("S3, store the rows", f"{gigabytes:,.1f} GB", gigabytes * s3["gigabyte_month"])


def _beside(node: Mapping[str, float]) -> float:
    """What each node costs an hour beside the machine."""
    return node["emr"] + node["disk"]


def _network(hours: float, prices: Mapping[str, Any]) -> Line:
    network = prices["network_hour"]
    return Line("NAT and endpoints", f"{hours:,.1f} h", hours * (network["nat"] + _ENDPOINTS * network["endpoint"]))


def _count(number: float) -> str:
    return f"{number / 1e6:,.2f} M"


def add_cost_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of cost."""
    parser.add_argument("--pictures", metavar="N", type=float, required=True, help="How many, like 50e6.")
    parser.add_argument(
        "--rate",
        metavar="N",
        type=float,
        default=MEASURED_RATE,
        help=f"Pictures a second on one core; measure yours with a replay. Default: {MEASURED_RATE:g}.",
    )
    parser.add_argument("--megabytes", metavar="N", type=float, default=0.01, help="Of a picture. Default: 0.01.")
    parser.add_argument("--nodes", metavar="N", type=int, default=4, help="Task nodes on spot. Default: 4.")
    parser.add_argument("--core-nodes", metavar="N", type=int, default=2, help="Nodes on demand. Default: 2.")
    parser.add_argument("--prices", metavar="FILE", type=Path, default=PRICES, help="Default: conf/emr/prices.yaml.")


def cost(_settings: Settings, arguments: argparse.Namespace) -> str:
    """Two tables: the backlog, and a month."""
    prices = _read(arguments.prices)
    job = Job(arguments.pictures, arguments.rate, arguments.nodes, arguments.core_nodes, arguments.megabytes)
    if job.pictures <= 0 or job.rate <= 0 or job.nodes < 0 or job.core_nodes < 1:
        raise SettingsError("--pictures and --rate must be more than 0, --core-nodes at least 1")
    title = f"{job.pictures:,.0f} pictures once, {job.hours:,.1f} hours"
    try:
        tables = _table(title, list(backlog(job, prices))), _table("a month, stream idle", list(month(job, prices)))
    except (KeyError, TypeError) as error:
        raise SettingsError(f"--prices {arguments.prices}: {error} is missing; see conf/emr/prices.yaml") from error
    source = f"USD without tax in {prices['region']}, prices of {prices['as_of']} from {arguments.prices}"
    return "\n\n".join((*tables, source))


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise SettingsError(f"--prices {file}: cannot read it: {' '.join(str(error).split())}") from error


def _table(title: str, lines: list[Line]) -> str:
    total = Line("sum", "", sum(line.usd for line in lines))
    rows = [f"{line.item:<34}{line.quantity:>18}{line.usd:>12,.2f}" for line in (*lines, total)]
    return "\n".join((title, *rows))
