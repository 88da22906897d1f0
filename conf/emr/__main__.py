"""The command line of the application on EMR: package, deploy, try, submit, status, logs, ui, stop, destroy, cost."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from conf.cli import EXIT_CODES, LOG_KEYS, Flag, Verb, make_parser, run_program
from conf.emr.cost import CostOptions, add_cost_arguments, cost
from conf.emr.deployment import (
    DeployOptions,
    PackageOptions,
    add_deploy_arguments,
    add_package_arguments,
    deploy,
    package,
)
from conf.emr.destruction import DestroyOptions, add_destroy_arguments, destroy
from conf.emr.operation import (
    LogsOptions,
    SubmitOptions,
    UiOptions,
    add_logs_arguments,
    add_status_arguments,
    add_submit_arguments,
    add_ui_arguments,
    logs,
    status,
    stop,
    submit,
    ui,
)
from conf.emr.options import OfStack, OfStackWithConsent, add_consent, add_stack, all_of, read_as
from conf.emr.permissions import explain
from conf.emr.spark_submit import SUBMITTED
from conf.emr.trial import TryOptions, add_try_arguments, try_

_REGION = (Flag("s3.region", "REGION"),)

_VERBS = (
    Verb(
        "package",
        "Build what EMR runs, from the lock file.",
        "Build in build/emr/PLATFORM the code, and what it depends on for the processors.",
        (),
        (),
        package,
        add_package_arguments,
        read_as(PackageOptions),
    ),
    Verb(
        "deploy",
        "Make the stacks on AWS, or change them.",
        "Look whether region and account have what is needed, make or change two CloudFormation stacks (the data, and\n"
        "what runs programs), wait, upload the application, and print where everything is. What is not given stays as\n"
        "it is. A cluster that has ended by itself is replaced. The default region is eu-west-3.",
        _REGION,
        (),
        deploy,
        add_deploy_arguments,
        read_as(DeployOptions),
    ),
    Verb(
        "try",
        "See it work with 100 pictures on Serverless, and take it down again.",
        "Deploy under a name of its own, fit a model on generated pictures, replay them, count the rows, and delete\n"
        "everything, whatever fails on the way. It starts no job that could cost more than --max-usd.",
        _REGION,
        (),
        try_,
        add_try_arguments,
        read_as(TryOptions),
    ),
    Verb(
        "submit",
        "Run the stream, a replay, a fit, a refit, an export or a reconcile.",
        "Upload the settings, and start a job on EMR Serverless, or a step on the cluster. The stream is a job in\n"
        "streaming mode. What follows -- goes to the program: submit fit --yes -- --limit 20000",
        _REGION,
        (),
        submit,
        add_submit_arguments,
        read_as(SubmitOptions),
        "{" + ",".join(SUBMITTED) + "}",
    ),
    Verb(
        "status",
        "Show what runs, and the stream's metrics.",
        "Show the application with its latest jobs, the cluster with its nodes and steps, and what the programs told\n"
        "CloudWatch in the last hour.",
        _REGION,
        (),
        status,
        add_status_arguments,
        read_as(OfStack),
    ),
    Verb(
        "logs",
        "Print what the drivers print.",
        "Print the log of the drivers from CloudWatch, or with --step what a step on the cluster printed, from the\n"
        "log archive.",
        _REGION,
        (),
        logs,
        add_logs_arguments,
        read_as(LogsOptions),
    ),
    Verb(
        "ui",
        "Print the address of Spark's UI.",
        "Print an address that AWS signs, and that is good for some minutes: of a job on Serverless, of an\n"
        "application that runs on the cluster, or of the cluster's History Server.",
        _REGION,
        (),
        ui,
        add_ui_arguments,
        read_as(UiOptions),
    ),
    Verb(
        "stop",
        "Stop the stream once it has finished its micro-batch.",
        "The same as python -m streaming stop, for the output of the stack. What it ran on stays.",
        _REGION,
        (),
        stop,
        all_of(add_stack, add_consent),
        read_as(OfStackWithConsent),
    ),
    Verb(
        "destroy",
        "Take down what runs programs; with --data, everything.",
        "Delete the stacks of Serverless and of the cluster, and tell what stays and what that costs. Buckets,\n"
        "tables, queue and key stay unless --data is given.",
        _REGION,
        (),
        destroy,
        add_destroy_arguments,
        read_as(DestroyOptions),
    ),
    Verb(
        "cost",
        "Estimate what a month costs in each form.",
        "Multiply a measured rate with a table of prices, which is conf/emr/prices.yaml unless you name another.",
        (),
        (),
        cost,
        add_cost_arguments,
        read_as(CostOptions),
        "--pictures N",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser, words = command_line(sys.argv[1:] if argv is None else argv)
    return run_program("emr", parser, words, explain)


def command_line(argv: Sequence[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the words for it; those after `--` are for the program on EMR, and become `more`."""
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    parser = make_parser("python -m conf.emr", "The application on Amazon EMR.", _VERBS, EXIT_CODES, LOG_KEYS)
    parser.set_defaults(more=words[end + 1 :])
    return parser, words[:end]


if __name__ == "__main__":
    sys.exit(main())
