"""Estimates the cost of a month in each form, from a measured rate and a table of prices that users may edit.

What a job without work takes is an assumption, which nobody has measured on AWS: see `IDLE_MINUTES`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conf.emr.stack import Compute, template_of
from conf.errors import SettingsError
from conf.settings import Settings

PRICES = Path(__file__).with_name("prices.yaml")

MEASURED_RATE = 83.0
"""Pictures of 100x100 pixels a second on one core of the slowest machine that was seen; docs/benchmarks.md has up to
125. It was not measured on EMR."""

IDLE_MINUTES = 2.0
"""Minutes of the driver of a job that finds nothing to do: its start, and some requests. An assumption."""

_MEGABYTES, _CORE_NODES = 0.01, 2
_HOURS_A_MONTH = 730
_DRIVER, _EXECUTOR = (2, 5), (4, 8)  # cores and gigabytes, as serverless.py asks for them
_CORES_PER_NODE = 4
_EXECUTOR_SHARE = 0.9  # of the cores, over a backlog: the last micro-batches do not fill them
_RUNS = {"replay, hourly": 730, "refit, weekly": 4.3, "reconcile, nightly": 30.4, "export, nightly": 30.4}
_WORK = {"replay, hourly": 0.0, "refit, weekly": 15.0, "reconcile, nightly": 0.0, "export, nightly": 3.0}
"""Minutes of one executor in each run, beside the pictures that come. Assumptions."""
_KEYS_PER_LIST = 1000
_ENDPOINTS = 3  # that a network of Serverless has, and that are paid
_SQS_PER_PICTURE = 3  # at most, where pictures come one by one: sent by S3, received, deleted
_SQS_A_MONTH_IDLE = {"hourly": 730 * 5, "always on": 1.3e6}
_REQUESTS_PER_BATCH = 17  # docs/benchmarks.md
_REQUESTS_PER_RUN = 60
_LISTS_A_MINUTE, _GETS_A_MINUTE = 14, 72  # of a stream that waits for pictures: docs/benchmarks.md
_PICTURES_PER_BATCH = 1000  # fewer than a micro-batch of a backlog has, more than one of a trickle
_ROW_BYTES = 400  # k = 50
_EMBEDDING_BYTES = 3000
_LOG_BYTES_PER_BATCH, _LOG_BYTES_PER_RUN = 600, 20_000
_METRICS = 6
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
class Month:
    """An entry of the bill.

    Attributes:
        pictures: that come in the month.
        rate: pictures a second on one core.
        core_nodes: on demand, of the cluster.
        megabytes: of a picture.
        idle_minutes: of a job without work.
    """

    pictures: float
    rate: float
    core_nodes: int
    megabytes: float
    idle_minutes: float

    @property
    def core_hours(self) -> float:
        """That the pictures take."""
        return self.pictures / (self.rate * _EXECUTOR_SHARE) / 3600

    @property
    def batches(self) -> float:
        """Micro-batches, of an assumed size."""
        return self.pictures / _PICTURES_PER_BATCH


def hourly(month: Month, prices: Mapping[str, Any]) -> Iterator[Line]:
    """On Serverless, by schedules: nothing runs between two jobs."""
    driver, executor = (_worker_hour(worker, prices) for worker in (_DRIVER, _EXECUTOR))
    for name, runs in _RUNS.items():
        minutes = month.idle_minutes + _WORK[name]
        usd = runs / 60 * (minutes * driver + _WORK[name] * executor)
        yield Line(f"{name}: without work", f"{runs:,.0f} x {minutes:,.0f} min", usd)
    hours = month.core_hours / _EXECUTOR[0]
    yield Line("replay: the pictures", f"{hours:,.1f} h", hours * (executor + driver))
    yield _discovery(month, prices)
    listed = month.pictures / _KEYS_PER_LIST * _RUNS["reconcile, nightly"]
    yield Line("reconcile: list this month's pictures", _count(listed), listed / 1000 * prices["s3"]["put_thousand"])
    runs = sum(_RUNS.values())
    yield Line("schedules", f"{runs:,.0f} runs", runs / 1e6 * prices["schedule_million"])
    yield from _around(month, prices, "hourly", runs)


def _discovery(month: Month, prices: Mapping[str, Any]) -> Line:
    """The cost of finding new pictures, in the cheaper way: by listing, or by the queue, which needs a network."""
    listed = month.pictures / _KEYS_PER_LIST * _RUNS["replay, hourly"]
    listing = Line("replay: list this month's pictures", _count(listed), listed / 1000 * prices["s3"]["put_thousand"])
    return min(listing, _network(prices), key=lambda line: line.usd)


def _network(prices: Mapping[str, Any]) -> Line:
    """From which jobs reach the queue."""
    usd = _ENDPOINTS * _HOURS_A_MONTH * prices["network_hour"]["endpoint"]
    return Line("a network, to reach the queue", f"{_ENDPOINTS} endpoints", usd)


def always_on(month: Month, prices: Mapping[str, Any]) -> Iterator[Line]:
    """On Serverless, a stream: a driver and one executor at least, always."""
    driver, executor = (_worker_hour(worker, prices) for worker in (_DRIVER, _EXECUTOR))
    yield Line("driver and one executor", f"{_HOURS_A_MONTH} h", _HOURS_A_MONTH * (driver + executor))
    more = max(0.0, month.core_hours / _EXECUTOR[0] - _HOURS_A_MONTH)
    yield Line("more executors", f"{more:,.1f} h", more * executor)
    yield _network(prices)
    yield from _around(month, prices, "always on", 0)


def cluster(month: Month, prices: Mapping[str, Any]) -> Iterator[Line]:
    """A cluster with a stream that waits, and spot nodes while there is work that its core nodes cannot do."""
    node, network = prices["node_hour"], prices["network_hour"]
    fixed, beside = month.core_nodes + 1, node["emr"] + node["disk"]
    yield Line(
        "nodes on demand", f"{fixed} x {_HOURS_A_MONTH} h", fixed * _HOURS_A_MONTH * (node["on_demand"] + beside)
    )
    more = max(0.0, month.core_hours / _CORES_PER_NODE - month.core_nodes * _HOURS_A_MONTH)
    yield Line("nodes on spot", f"{more:,.1f} h", more * (node["spot"] + beside))
    usd = _HOURS_A_MONTH * (network["nat"] + network["public_ipv4"] + network["endpoint"])
    yield Line("NAT and the endpoint of EMR", f"{_HOURS_A_MONTH} h", usd)
    yield from _around(month, prices, "always on", 0)


def monthly_usd(compute: Compute, pictures: float, prices: Mapping[str, Any]) -> float:
    """The price of a month with so many pictures, with the defaults: on Serverless with schedules, or on a cluster."""
    month = Month(pictures, MEASURED_RATE, _CORE_NODES, _MEGABYTES, IDLE_MINUTES)
    return sum(line.usd for line in (hourly if compute == "serverless" else cluster)(month, prices))


def _around(month: Month, prices: Mapping[str, Any], form: str, runs: float) -> Iterator[Line]:
    """The costs of every form: requests, logs, alarms, what is stored."""
    s3 = prices["s3"]
    yield Line("S3, read the pictures", _count(month.pictures), month.pictures / 1000 * s3["get_thousand"])
    requests = month.batches * _REQUESTS_PER_BATCH + runs * _REQUESTS_PER_RUN
    yield Line("S3, manifests and tables", _count(requests), requests / 1000 * s3["put_thousand"])
    if form == "always on":
        lists, gets = (count * 60 * _HOURS_A_MONTH for count in (_LISTS_A_MINUTE, _GETS_A_MINUTE))
        usd = (lists * s3["put_thousand"] + gets * s3["get_thousand"]) / 1000
        yield Line("S3, the stream's lease and looks", _count(lists + gets), usd)
    requests = month.pictures * _SQS_PER_PICTURE + _SQS_A_MONTH_IDLE[form]
    yield Line("SQS", _count(requests), requests / 1e6 * prices["sqs_million"])
    gigabytes = (month.batches * _LOG_BYTES_PER_BATCH + runs * _LOG_BYTES_PER_RUN) / _GIGABYTE
    yield Line("logs", f"{gigabytes:,.2f} GB", gigabytes * prices["log_gigabyte"])
    watching = _METRICS * prices["metric_month"] + metrics_of_alarms() * prices["alarm_month"]
    yield Line("metrics, alarms, key", f"{_METRICS} metrics", watching + prices["kms_month"])
    gigabytes = month.pictures * month.megabytes * 1e6 / _GIGABYTE
    yield Line("S3, store this month's pictures", f"{gigabytes:,.0f} GB", gigabytes * s3["gigabyte_month"])
    gigabytes = month.pictures * (_ROW_BYTES + _EMBEDDING_BYTES) / _GIGABYTE
    yield Line("S3, store their rows", f"{gigabytes:,.1f} GB", gigabytes * s3["gigabyte_month"])


def metrics_of_alarms() -> int:
    """How many metrics the alarms of the data have, by which they are paid."""
    return sum(map(_metrics_of, template_of("data")["Resources"].values()))


def _metrics_of(resource: Mapping[str, Any]) -> int:
    """By which an alarm is paid."""
    if resource["Type"] != "AWS::CloudWatch::Alarm":
        return 0
    return sum("MetricStat" in query for query in resource["Properties"].get("Metrics", ())) or 1


def _worker_hour(worker: tuple[int, int], prices: Mapping[str, Any]) -> float:
    cores, gigabytes = worker
    return float(serverless_usd(cores, gigabytes, prices))


def serverless_usd(vcpu_hours: float, gigabyte_hours: float, prices: Mapping[str, Any]) -> float:
    """The price of what a job was billed for."""
    hour = prices["serverless_hour"]
    return float(vcpu_hours * hour["vcpu"] + gigabyte_hours * hour["gigabyte"])


def _count(number: float) -> str:
    return f"{number / 1e6:,.2f} M"


@dataclass(frozen=True)
class CostOptions:
    """The options of cost: those of a `Month`, and a file with prices."""

    pictures: float
    rate: float
    megabytes: float
    idle_minutes: float
    core_nodes: int
    prices: Path


def add_cost_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of cost."""
    parser.add_argument(
        "--pictures", metavar="N", type=float, required=True, help="How many come in a month, like 1e6; 0 is idle."
    )
    parser.add_argument(
        "--rate",
        metavar="N",
        type=float,
        default=MEASURED_RATE,
        help=f"Pictures a second on one core; measure yours with a replay. Default: {MEASURED_RATE:g}.",
    )
    parser.add_argument(
        "--megabytes", metavar="N", type=float, default=_MEGABYTES, help=f"Of a picture. Default: {_MEGABYTES:g}."
    )
    parser.add_argument(
        "--idle-minutes",
        metavar="N",
        type=float,
        default=IDLE_MINUTES,
        help=f"What a scheduled job takes that finds nothing. Default: {IDLE_MINUTES:g}, which is assumed.",
    )
    parser.add_argument(
        "--core-nodes", metavar="N", type=int, default=_CORE_NODES, help=f"Of the cluster. Default: {_CORE_NODES}."
    )
    parser.add_argument("--prices", metavar="FILE", type=Path, default=PRICES, help="Default: conf/emr/prices.yaml.")


def cost(_settings: Settings, options: CostOptions) -> str:
    """A table for each form."""
    prices = read_prices(options.prices)
    month = Month(options.pictures, options.rate, options.core_nodes, options.megabytes, options.idle_minutes)
    if month.pictures < 0 or month.rate <= 0 or month.core_nodes < 1 or month.idle_minutes < 0:
        raise SettingsError(
            "--pictures and --idle-minutes must be at least 0, --core-nodes at least 1, --rate more than 0"
        )
    title = f"a month, {month.pictures:,.0f} pictures"
    try:
        tables = [
            _table(f"{title}, Serverless with schedules", list(hourly(month, prices))),
            _table(f"{title}, Serverless always on", list(always_on(month, prices))),
            _table(f"{title}, cluster", list(cluster(month, prices))),
        ]
    except (KeyError, TypeError) as error:
        raise SettingsError(f"--prices {options.prices}: {error} is missing; see conf/emr/prices.yaml") from error
    source = f"USD without tax in {prices['region']}, prices of {prices['as_of']} from {options.prices}"
    return "\n\n".join((*tables, source))


def read_prices(file: Path) -> dict[str, Any]:
    """The table of prices.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return dict(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise SettingsError(f"--prices {file}: cannot read it: {' '.join(str(error).split())}") from error


def _table(title: str, lines: list[Line]) -> str:
    total = Line("sum", "", sum(line.usd for line in lines))
    rows = [f"{line.item:<40}{line.quantity:>16}{line.usd:>12,.2f}" for line in (*lines, total)]
    return "\n".join((title, *rows))
