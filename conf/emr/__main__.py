"""The command line of the application on EMR: package, deploy, submit, status, logs, stop, destroy, cost.

It owns what a person sees of AWS; it must not know how the calls are made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from conf.cli import Flag, Verb, make_parser, run_program
from conf.emr.deployment import add_deploy_arguments, add_destroy_arguments, deploy, destroy
from conf.emr.permissions import explain

_REGION = (Flag("s3.region", "REGION"),)

_VERBS = (
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
        "destroy",
        "Take down what costs by the hour; with --data, everything.",
        "End the cluster and its network. Buckets, tables, queue and key stay unless --data is given.",
        _REGION,
        (),
        destroy,
        add_destroy_arguments,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = make_parser("conf.emr", "The application on Amazon EMR.", _VERBS)
    return run_program("emr", parser, argv, explain)


if __name__ == "__main__":
    sys.exit(main())
