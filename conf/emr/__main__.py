"""The command line of the application on EMR: package, deploy, submit, status, logs, stop, destroy, cost."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from conf.cli import EXIT_CODES, LOG_KEYS, Flag, Verb, make_parser, run_program
from conf.emr.cost import add_cost_arguments, cost
from conf.emr.deployment import (
    add_deploy_arguments,
    add_destroy_arguments,
    add_package_arguments,
    deploy,
    destroy,
    package,
)
from conf.emr.operation import (
    add_logs_arguments,
    add_status_arguments,
    add_submit_arguments,
    logs,
    status,
    stop,
    submit,
)
from conf.emr.options import add_consent, add_stack, options
from conf.emr.permissions import explain
from conf.emr.spark_submit import PROGRAMS

_REGION = (Flag("s3.region", "REGION"),)

_VERBS = (
    Verb(
        "package",
        "Build what the cluster runs, from the lock file.",
        "Build two archives in build/emr/PLATFORM: the code, and what it depends on for the nodes' processors.",
        (),
        (),
        package,
        add_package_arguments,
    ),
    Verb(
        "deploy",
        "Make the stack on AWS, or change it.",
        "Make or change the CloudFormation stack, wait, upload the application, and print where everything is. What\n"
        "is not given stays as it is. A cluster that has ended by itself is replaced. The default region is eu-west-3.",
        _REGION,
        (),
        deploy,
        add_deploy_arguments,
    ),
    Verb(
        "submit",
        "Run the stream, a fit, a refit, an export or a reconcile on the cluster.",
        "Upload the settings, and add a step to the cluster, in cluster deploy mode. With --serverless it is a job on\n"
        "EMR Serverless instead, a stream in streaming mode. What follows -- goes to the program: submit fit --yes --\n"
        "--limit 20000",
        _REGION,
        (),
        submit,
        add_submit_arguments,
        "{" + ",".join(PROGRAMS) + "}",
    ),
    Verb(
        "status",
        "Show the cluster, its nodes and steps, and the stream's metrics.",
        "Show the cluster, its nodes, the latest steps, and what the stream told CloudWatch in the last hour. With\n"
        "--serverless and --job it is a job on EMR Serverless instead of the cluster.",
        _REGION,
        (),
        status,
        add_status_arguments,
    ),
    Verb(
        "logs",
        "Print what the drivers print.",
        "Print the log of the drivers from CloudWatch, or with --step what spark-submit said, from the log archive.",
        _REGION,
        (),
        logs,
        add_logs_arguments,
    ),
    Verb(
        "stop",
        "Stop the stream once it has finished its micro-batch.",
        "The same as python -m streaming stop, for the output of the stack. The cluster stays, and costs.",
        _REGION,
        (),
        stop,
        options(add_stack, add_consent),
    ),
    Verb(
        "destroy",
        "Take down what costs by the hour; with --data, everything.",
        "End the cluster and its network. Buckets, tables, queue and key stay unless --data is given.",
        _REGION,
        (),
        destroy,
        add_destroy_arguments,
    ),
    Verb(
        "cost",
        "Estimate what pictures and a month of streaming cost.",
        "Multiply a measured rate with a table of prices, which is conf/emr/prices.yaml unless you name another.",
        (),
        (),
        cost,
        add_cost_arguments,
        "--pictures N",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser, words = command_line(sys.argv[1:] if argv is None else argv)
    return run_program("emr", parser, words, explain)


def command_line(argv: Sequence[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the words for it; those after `--` are for the program on the cluster, and become `more`."""
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    parser = make_parser("python -m conf.emr", "The application on Amazon EMR.", _VERBS, EXIT_CODES, LOG_KEYS)
    parser.set_defaults(more=words[end + 1 :])
    return parser, words[:end]


if __name__ == "__main__":
    sys.exit(main())
