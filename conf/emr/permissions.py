"""A refusal of AWS in one line that names the permission to grant, and the permissions that the verbs need."""

from __future__ import annotations

import re

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError

from conf.aws.errors import Explainer
from conf.errors import AppError, RefusedError
from conf.failures import code_of

PERMISSIONS = {
    "AddJobFlowSteps": "elasticmapreduce:AddJobFlowSteps",
    "CancelJobRun": "emr-serverless:CancelJobRun",
    "CreateMultipartUpload": "s3:PutObject",
    "CreateStack": "cloudformation:CreateStack",
    "DeleteObjects": "s3:DeleteObject and s3:DeleteObjectVersion",
    "DeleteStack": "cloudformation:DeleteStack",
    "DescribeCluster": "elasticmapreduce:DescribeCluster",
    "DescribeInstanceTypeOfferings": "ec2:DescribeInstanceTypeOfferings",
    "DescribeReleaseLabel": "elasticmapreduce:DescribeReleaseLabel",
    "DescribeStackEvents": "cloudformation:DescribeStackEvents",
    "DescribeStacks": "cloudformation:DescribeStacks",
    "DescribeStep": "elasticmapreduce:DescribeStep",
    "DescribeType": "cloudformation:DescribeType",
    "FilterLogEvents": "logs:FilterLogEvents",
    "GetApplication": "emr-serverless:GetApplication",
    "GetCallerIdentity": "sts:GetCallerIdentity",
    "GetDashboardForJobRun": "emr-serverless:GetDashboardForJobRun",
    "GetJobRun": "emr-serverless:GetJobRun",
    "GetMetricData": "cloudwatch:GetMetricData",
    "GetObject": "s3:GetObject",
    "GetOnClusterAppUIPresignedURL": "elasticmapreduce:GetOnClusterAppUIPresignedURL",
    "GetRole": "iam:GetRole",
    "GetServiceQuota": "servicequotas:GetServiceQuota",
    "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "ListInstanceFleets": "elasticmapreduce:ListInstanceFleets",
    "ListJobRuns": "emr-serverless:ListJobRuns",
    "ListObjectVersions": "s3:ListBucketVersions",
    "ListObjectsV2": "s3:ListBucket",
    "ListSteps": "elasticmapreduce:ListSteps",
    "PutObject": "s3:PutObject",
    "SimulatePrincipalPolicy": "iam:SimulatePrincipalPolicy",
    "StartJobRun": "emr-serverless:StartJobRun and iam:PassRole",
    "StopApplication": "emr-serverless:StopApplication",
    "UpdateStack": "cloudformation:UpdateStack",
}
"""The permission that each call of these verbs needs."""

CREATION = {
    "AWS::Athena::WorkGroup": "athena:CreateWorkGroup",
    "AWS::Budgets::Budget": "budgets:ModifyBudget",
    "AWS::CloudWatch::Alarm": "cloudwatch:PutMetricAlarm",
    "AWS::EC2::VPC": "ec2:CreateVpc and ec2:DeleteVpc",
    "AWS::EC2::VPCEndpoint": "ec2:CreateVpcEndpoint and ec2:DeleteVpcEndpoints",
    "AWS::EC2::NatGateway": "ec2:CreateNatGateway and ec2:AllocateAddress",
    "AWS::EMR::Cluster": "elasticmapreduce:RunJobFlow and elasticmapreduce:TerminateJobFlows",
    "AWS::EMRServerless::Application": "emr-serverless:CreateApplication and emr-serverless:DeleteApplication",
    "AWS::Events::Rule": "events:PutRule and events:PutTargets",
    "AWS::Glue::Database": "glue:CreateDatabase",
    "AWS::Glue::Table": "glue:CreateTable",
    "AWS::IAM::Role": "iam:CreateRole, iam:PutRolePolicy, iam:DeleteRole and iam:CreateServiceLinkedRole",
    "AWS::KMS::Key": "kms:CreateKey and kms:ScheduleKeyDeletion",
    "AWS::Logs::LogGroup": "logs:CreateLogGroup",
    "AWS::S3::Bucket": "s3:CreateBucket and s3:DeleteBucket",
    "AWS::SNS::Topic": "sns:CreateTopic",
    "AWS::SQS::Queue": "sqs:CreateQueue",
    "AWS::Scheduler::Schedule": "scheduler:CreateSchedule",
}
"""The permissions that making a resource needs, as CloudFormation acts with those of the caller: enough to warn who
has no right to a service. Each resource needs the permissions to tag, read and change it besides."""

_DENIED = frozenset(
    ("AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation", "AllAccessDisabled", "403")
)
_SAID = re.compile(r"not authorized to perform:? (?P<action>[\w-]+:\w+)(?: on (?:the )?resource:? (?P<resource>\S+))?")
_AWS = Explainer(
    "AWS",
    {
        "AlreadyExistsException": "it exists already",
        "InsufficientCapabilitiesException": "the template makes roles; use python -m conf.emr deploy",
        "LimitExceeded": "a quota of the account is used up; ask for a higher one",
    },
)


def explain(error: BaseException) -> AppError | None:
    """An error of boto3 as an error for people, or None if it is none of boto3's."""
    if isinstance(error, S3UploadFailedError) and isinstance(error.__context__, ClientError):
        error = error.__context__
    if not isinstance(error, (BotoCoreError, ClientError)):
        return None
    what = error.operation_name if isinstance(error, ClientError) else "AWS"
    if isinstance(error, ClientError) and code_of(error) in _DENIED:
        explained: AppError = RefusedError(f"{what}: access denied; grant {_missing(error)}")
        explained.__cause__ = error
        return explained
    try:
        with _AWS.explained(what, ""):
            raise error
    except AppError as meant:
        return meant
    except BotoCoreError:
        return None


def missing_permission(said: str) -> str | None:
    """The permission that a text of AWS says is missing, with the resource; None if it says something else."""
    match = _SAID.search(said)
    if not match:
        return None
    resource = match["resource"]
    return f"{match['action']} on {resource.rstrip('.,')}" if resource else match["action"]


def _missing(error: ClientError) -> str:
    said = str(error.response.get("Error", {}).get("Message", ""))
    return missing_permission(said) or PERMISSIONS.get(error.operation_name, error.operation_name)
