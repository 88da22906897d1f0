"""Options that several verbs share, and the question before an action that costs money or deletes data."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from conf.aws.connection import S3Connection
from conf.emr.application import PLATFORMS, SETTINGS
from conf.emr.stack import DEFAULT_REGION, Compute, Stack, check_region
from conf.errors import NotFoundError, SettingsError
from conf.settings import Settings

COMPUTES: tuple[Compute, ...] = ("serverless", "cluster")


def options(*adders: Callable[[argparse.ArgumentParser], None]) -> Callable[[argparse.ArgumentParser], None]:
    """A function that declares the options of all of these, for a verb that has no others."""

    def add(parser: argparse.ArgumentParser) -> None:
        for adder in adders:
            adder(parser)

    return add


def add_stack(parser: argparse.ArgumentParser, default: str = "picture-features") -> None:
    """Declare --stack and --allow-non-eu."""
    parser.add_argument("--stack", metavar="NAME", default=default, help=f"The name of the stacks. Default: {default}.")
    parser.add_argument("--allow-non-eu", action="store_true", help="Accept a region outside the European Union.")


def stack_of(settings: Settings, arguments: argparse.Namespace) -> Stack:
    """The data stack that is meant.

    Raises:
        SettingsError: its region is outside the European Union, or its name cannot be.
    """
    region = settings.s3.region or os.environ.get("AWS_REGION") or DEFAULT_REGION
    check_region(region, allow_non_eu=arguments.allow_non_eu)
    return Stack.of(arguments.stack, region, S3Connection.of(settings.s3))


def add_platform(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Declare --platform."""
    parser.add_argument("--platform", choices=PLATFORMS, default=default, help="The processors of the nodes.")


def add_compute(parser: argparse.ArgumentParser) -> None:
    """Declare --compute."""
    parser.add_argument(
        "--compute",
        choices=COMPUTES,
        help="EMR Serverless or a cluster. Default: the one that is deployed, and serverless of both.",
    )


def compute_of(stack: Stack, arguments: argparse.Namespace) -> Stack:
    """The stack on which a program is to run.

    Raises:
        NotFoundError: there is none.
    """
    wanted = (arguments.compute,) if arguments.compute else COMPUTES
    for compute in wanted:
        if stack.sibling(compute).describe() is not None:
            return stack.sibling(compute)
    raise NotFoundError(
        f"nothing of {stack.name!r} runs programs in {stack.region}; python -m conf.emr deploy --compute {wanted[0]} "
        "makes it"
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare --settings."""
    parser.add_argument(
        "--settings",
        metavar="FILE",
        type=Path,
        default=SETTINGS,
        help="The settings of the programs on EMR. Default: conf/emr.yaml.",
    )


def add_consent(parser: argparse.ArgumentParser) -> None:
    """Declare --yes and --dry-run."""
    parser.add_argument("--yes", action="store_true", help="Do not ask.")
    parser.add_argument("--dry-run", action="store_true", help="Say what would be done, and do nothing.")


def agreed(plan: str, arguments: argparse.Namespace) -> bool:
    """Show a plan on stderr; whether to go on with it.

    Raises:
        SettingsError: there is nobody to ask.
    """
    sys.stderr.write(f"{plan}\n")
    if arguments.dry_run:
        sys.stderr.write("dry run: nothing was done\n")
        return False
    if arguments.yes:
        return True
    if not sys.stdin.isatty():
        raise SettingsError(f"{arguments.verb}: nobody is there to be asked; give --yes, or --dry-run to only look")
    sys.stderr.write("Go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
