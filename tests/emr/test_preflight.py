"""What deploy looks at beforehand, against botocore's models: no server answers all of these calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from botocore.stub import Stubber

from conf.aws.connection import AWS_DEFAULTS, forget_clients
from conf.emr import preflight
from conf.emr.stack import Part, Stack, template_of
from tests.support.servers import CREDENTIALS

ROLE = "arn:aws:iam::123456789012:role/team/deployer"
QUOTA = {"QuotaCode": "L-D05C8A75"}


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    for key, value in CREDENTIALS.items():
        monkeypatch.setenv(key, value)
    forget_clients()
    yield Stack.of("pictures", "eu-west-3", AWS_DEFAULTS)
    forget_clients()


def parameters(part: Part) -> dict[str, str]:
    return {name: str(one.get("Default", "")) for name, one in template_of(part)["Parameters"].items()}


def found(stack: Stack, part: Part, check: Any, *answers: tuple[str, str, object]) -> list[str]:
    """What one check says, where services answer so: (service, operation, answer or code of an error)."""
    with ExitStack() as stubs:
        by_service = {
            name: stubs.enter_context(Stubber(stack.client(name))) for name in {service for service, *_ in answers}
        }
        for service, operation, answer in answers:
            if isinstance(answer, str):
                by_service[service].add_client_error(operation, answer)
            else:
                by_service[service].add_response(operation, answer)
        said = preflight._carefully(check, stack.sibling(part), parameters(part))
        for stub in by_service.values():
            stub.assert_no_pending_responses()
    return said


def test_a_release_that_the_region_lacks_is_told_with_the_command_that_lists_others(stack: Stack) -> None:
    there = {"ReleaseLabel": "emr-spark-8.1.0"}
    assert found(stack, "serverless", preflight._release, ("emr", "describe_release_label", there)) == []
    [said] = found(stack, "serverless", preflight._release, ("emr", "describe_release_label", "ValidationException"))
    assert said.startswith("eu-west-3 has no release emr-spark-8.1.0: aws emr list-release-labels")


@pytest.mark.parametrize(("part", "kinds"), [("serverless", 19), ("cluster", 34)])
def test_every_type_of_the_templates_is_looked_for(stack: Stack, part: Part, kinds: int) -> None:
    wanted = sorted(preflight._kinds(stack.sibling(part), parameters(part)))
    answers = [("cloudformation", "describe_type", {"TypeName": kind}) for kind in wanted]
    assert found(stack, part, preflight._types, *answers) == []
    answers[0] = ("cloudformation", "describe_type", "TypeNotFoundException")  # type: ignore[assignment]
    [said] = found(stack, part, preflight._types, *answers)
    assert said == f"CloudFormation has no {wanted[0]} in eu-west-3: deploy --region takes another region"
    assert len(wanted) == kinds


def test_a_network_is_looked_for_where_one_is_asked_for(stack: Stack) -> None:
    compute = stack.sibling("serverless")
    asked, not_asked = ({**parameters("serverless"), "Network": given} for given in ("yes", "no"))
    more = preflight._kinds(compute, asked) - preflight._kinds(compute, not_asked)
    assert {"AWS::EC2::VPC", "AWS::EC2::VPCEndpoint"} <= more
    assert all(kind.startswith("AWS::EC2::") for kind in more)


def test_a_budget_is_not_looked_for_where_none_is_made(stack: Stack) -> None:
    wanted = preflight._kinds(stack.sibling("serverless"), parameters("serverless"))
    answers = [("cloudformation", "describe_type", {"TypeName": kind}) for kind in wanted - {"AWS::Budgets::Budget"}]
    north = Stack.of("pictures", "eu-north-1", AWS_DEFAULTS)
    assert found(north, "serverless", preflight._types, *answers) == []


def test_a_quota_that_is_too_small_is_told_with_the_request_for_more(stack: Stack) -> None:
    def quota(value: float) -> tuple[str, str, object]:
        return "service-quotas", "get_service_quota", {"Quota": {**QUOTA, "Value": value}}

    assert found(stack, "serverless", preflight._quotas, quota(16.0)) == []
    [said] = found(stack, "serverless", preflight._quotas, quota(8.0))
    assert said.startswith("the quota of cores on EMR Serverless is 8, and 16 are needed: aws service-quotas request-")
    assert "--quota-code L-D05C8A75 --desired-value 16 --region eu-west-3" in said
    [demand] = found(stack, "cluster", preflight._quotas, quota(5.0), quota(16.0))
    assert "the quota of cores on demand is 5, and 12 are needed" in demand


def test_a_right_that_is_denied_is_named_and_one_on_some_resources_refuses_nothing(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    """A role that may change only the stacks and the buckets of this name is enough."""
    caller = ("sts", "get_caller_identity", {"Arn": "arn:aws:sts::123456789012:assumed-role/deployer/me"})
    role = {"Path": "/team/", "RoleName": "deployer", "RoleId": "AROA1234567890123456", "Arn": ROLE, "CreateDate": 0}
    result = {"EvalActionName": "kms:CreateKey", "EvalDecision": "explicitDeny"}
    unsure = {"EvalActionName": "cloudformation:UpdateStack", "EvalDecision": "implicitDeny"}
    fine = {"EvalActionName": "sqs:CreateQueue", "EvalDecision": "allowed"}
    answers = (caller, ("iam", "get_role", {"Role": role}))
    simulated = (
        "iam",
        "simulate_principal_policy",
        {"EvaluationResults": [result, unsure, fine], "IsTruncated": False},
    )
    [said] = found(stack, "serverless", preflight._rights, *answers, simulated)
    assert said.startswith(
        f"a policy or a boundary of {ROLE} denies kms:CreateKey: aws iam list-attached-role-policies"
    )
    assert f"{ROLE} is allowed cloudformation:UpdateStack on no resource, or on some only" in caplog.text
    simulated = ("iam", "simulate_principal_policy", {"EvaluationResults": [fine], "IsTruncated": False})
    assert found(stack, "serverless", preflight._rights, *answers, simulated) == []
    root = ("sts", "get_caller_identity", {"Arn": "arn:aws:iam::123456789012:root"})
    assert found(stack, "serverless", preflight._rights, root) == []


def test_machines_that_the_region_lacks_and_an_account_without_spot_are_told(stack: Stack) -> None:
    offered = {"InstanceTypeOfferings": [{"InstanceType": kind} for kind in ("m6g.xlarge", "m7g.xlarge")]}
    asked = ("ec2", "describe_instance_type_offerings", offered)
    [said] = found(stack, "cluster", preflight._instance_types, asked)
    assert said == "eu-west-3 has no m6gd.xlarge: --set InstanceTypes takes three others"
    [said] = found(stack, "cluster", preflight._spot_role, ("iam", "get_role", "NoSuchEntity"))
    assert "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com" in said


def test_what_cannot_be_looked_at_refuses_nothing(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    denied = ("service-quotas", "get_service_quota", "AccessDeniedException")
    assert found(stack, "serverless", preflight._quotas, denied) == []
    assert "not checked: Whether the quotas of cores allow what is wanted (AccessDeniedException)" in caplog.text


def test_all_that_is_missing_is_told_at_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("_release", "_types", "_quotas", "_rights", "_instance_types", "_spot_role")
    for name in names:
        monkeypatch.setattr(preflight, name, lambda *_, said=name: iter([said]))
    assert preflight.check(stack.sibling("cluster"), {}) == [*names]
    assert preflight.check(stack.sibling("serverless"), {}) == [*names[:4]]
