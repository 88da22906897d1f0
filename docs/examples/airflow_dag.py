"""Refit and reconcile from Airflow on a cluster, instead of its schedules. It was not run; its syntax was checked.

Put it into Airflow's dags folder, install picture-features and apache-airflow-providers-amazon[aiobotocore] (9 or
later) beside Airflow 3, and leave the schedules of the stack off. Two kinds of credentials:

- the connection aws_default, which has to name the region, needs elasticmapreduce:AddJobFlowSteps, DescribeCluster and
  DescribeStep;
- what boto3 finds on a worker (environment, profile, role) needs cloudformation:DescribeStacks, because our own code
  looks the cluster up and knows of no connections.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.amazon.aws.operators.emr import EmrAddStepsOperator
from airflow.sdk import dag, task

STACK, REGION = "picture-features", "eu-west-3"


@task
def step(verb: str, more: list[str]) -> dict[str, Any]:
    """The cluster, and a step as EMR takes it: looked up at each run, because deploy replaces clusters."""
    from conf.aws.connection import AWS_DEFAULTS  # noqa: PLC0415 - Airflow reads this file all the time
    from conf.emr.application import SETTINGS, locations_of  # noqa: PLC0415 - as above
    from conf.emr.cluster import step_of  # noqa: PLC0415 - as above
    from conf.emr.spark_submit import spark_submit_arguments  # noqa: PLC0415 - as above
    from conf.emr.stack import Stack  # noqa: PLC0415 - as above
    from conf.loading import load_settings  # noqa: PLC0415 - as above

    data = Stack.of(STACK, REGION, AWS_DEFAULTS)
    there = data.sibling("cluster").outputs()
    locations = locations_of(data, data.outputs(), there["Platform"])
    words = spark_submit_arguments(verb, load_settings({}, SETTINGS), locations, more)
    return {"cluster": there["ClusterId"], "steps": [step_of(f"airflow {verb}", words)]}


def submitted(verb: str, more: list[str], after: EmrAddStepsOperator | None = None) -> EmrAddStepsOperator:
    """A step that is added, and waited for without taking a worker; a retry adds it again."""
    planned = step.override(task_id=f"{verb}_step")(verb, more)
    if after is not None:
        after >> planned
    return EmrAddStepsOperator(
        task_id=verb,
        job_flow_id=planned["cluster"],
        steps=planned["steps"],
        region_name=REGION,
        deferrable=True,
        waiter_delay=60,
        waiter_max_attempts=6 * 60,  # that is, 6 hours
    )


@dag(
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 1, "retry_delay": timedelta(minutes=10)},
    tags=["picture-features"],
)
def picture_features() -> None:
    """Each night what was missed is requested; then a model is fitted on the embeddings."""
    reconciled = submitted("reconcile", ["--enqueue"])
    submitted("refit", ["--limit", "100000", "--promote", "if-not-worse"], after=reconciled)


picture_features()
