"""Options that several verbs share, and the question before an action that costs money or deletes data."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from conf.aws.connection import S3Connection
from conf.emr.application import PLATFORMS
from conf.emr.stack import DEFAULT_REGION, Compute, Stack, check_region, is_usable
from conf.errors import NotFoundError, SettingsError
from conf.settings import Settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

COMPUTES: tuple[Compute, ...] = ("serverless", "cluster")

_Options = TypeVar("_Options", bound="DataclassInstance")


@dataclass(frozen=True)
class OfStack:
    """Which stacks are meant.

    Attributes:
        stack: their name.
        allow_non_eu: whether their region may be outside the European Union.
    """

    stack: str
    allow_non_eu: bool


@dataclass(frozen=True)
class Consent:
    """What the user has agreed to beforehand.

    Attributes:
        yes: everything.
        dry_run: nothing; the plan is only shown.
    """

    yes: bool
    dry_run: bool


@dataclass(frozen=True)
class OfStackWithConsent(Consent, OfStack):
    """The options of a verb that changes stacks, or what runs on them."""


def read_as(options: type[_Options]) -> Callable[[argparse.Namespace], _Options]:
    """A function that makes a dataclass of the arguments that have the names of its fields."""
    names = [field.name for field in fields(options)]
    return lambda arguments: options(**{name: getattr(arguments, name) for name in names})


def all_of(*adders: Callable[[argparse.ArgumentParser], None]) -> Callable[[argparse.ArgumentParser], None]:
    """A function that declares the options of all of these, for a verb that has no others."""

    def add(parser: argparse.ArgumentParser) -> None:
        for adder in adders:
            adder(parser)

    return add


def add_stack(parser: argparse.ArgumentParser, default: str = "picture-features") -> None:
    """Declare --stack and --allow-non-eu."""
    parser.add_argument("--stack", metavar="NAME", default=default, help=f"The name of the stacks. Default: {default}.")
    parser.add_argument("--allow-non-eu", action="store_true", help="Accept a region outside the European Union.")


def stack_of(settings: Settings, options: OfStack) -> Stack:
    """The data stack that is meant.

    Raises:
        SettingsError: its region is outside the European Union, or its name cannot be.
    """
    region = settings.s3.region or os.environ.get("AWS_REGION") or DEFAULT_REGION
    check_region(region, allow_non_eu=options.allow_non_eu)
    return Stack.of(options.stack, region, S3Connection.of(settings.s3))


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


def compute_of(stack: Stack, asked: Compute | None) -> Stack:
    """The stack on which a program is to run: the one that is asked for, or else the first that is whole.

    Raises:
        NotFoundError: there is none.
    """
    wanted = (asked,) if asked else COMPUTES
    unusable = []
    for compute in map(stack.sibling, wanted):
        there = compute.describe()
        if there and is_usable(there):
            return compute
        if there:
            unusable.append(compute.unusable(there))
    if unusable:
        raise NotFoundError(", and ".join(unusable))
    raise NotFoundError(
        f"nothing of {stack.name!r} runs programs in {stack.region}; "
        f"{stack.command('deploy', '--compute', wanted[0])} makes it"
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare --settings."""
    parser.add_argument(
        "--settings",
        metavar="FILE",
        type=Path,
        help="The settings of the programs on EMR. Default: those that were uploaded last for these processors, and "
        "conf/emr.yaml at first.",
    )


def add_consent(parser: argparse.ArgumentParser) -> None:
    """Declare --yes and --dry-run."""
    parser.add_argument("--yes", action="store_true", help="Do not ask.")
    parser.add_argument("--dry-run", action="store_true", help="Say what would be done, and do nothing.")


def agreed(plan: str, consent: Consent) -> bool:
    """Show a plan on stderr; whether to go on with it.

    Raises:
        SettingsError: there is nobody to ask.
    """
    sys.stderr.write(f"{plan}\n")
    if consent.dry_run:
        sys.stderr.write("dry run: nothing was done\n")
        return False
    if consent.yes:
        return True
    if not sys.stdin.isatty():
        raise SettingsError("nobody is there to be asked; give --yes, or --dry-run to only look")
    sys.stderr.write("Go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
