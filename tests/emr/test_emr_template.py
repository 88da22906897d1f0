"""The stack on AWS as data: what the template promises about access, loss, money and place."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cfnlint import ManualArgs
from cfnlint.api import lint_file
from cfnlint.decode import decode

from conf.emr import cluster, cost, spark_submit
from conf.emr.application import SETTINGS
from conf.emr.stack import EU_REGIONS, TEMPLATE, template_body
from conf.loading import load_settings
from streaming.engine import metrics
from streaming.features.schema import EMBEDDINGS, FEATURES, QUARANTINE

LARGEST_BODY = 51_200  # bytes that CloudFormation takes without a bucket
UNTAGGABLE = {  # CloudFormation has no tags for these
    "AWS::EC2::Route",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::VPCGatewayAttachment",
    "AWS::EMR::SecurityConfiguration",
    "AWS::Glue::Database",
    "AWS::Glue::Table",
    "AWS::IAM::InstanceProfile",
    "AWS::KMS::Alias",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SQS::QueuePolicy",
    "AWS::Scheduler::Schedule",
}
RECORDS = ("_embeddings", "_manifests", "_known", "_lease", "_checkpoint", "_requests", "_forgotten", "_drain")


def decoded(file: Path) -> dict[str, Any]:
    found, matches = decode(str(file))
    assert not matches
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return decoded(TEMPLATE)


@pytest.fixture(scope="module")
def resources(template: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = template["Resources"]
    return found


def of_type(resources: dict[str, Any], kind: str) -> dict[str, Any]:
    return {name: one["Properties"] for name, one in resources.items() if one["Type"] == kind}


def parts(value: object) -> Iterator[object]:
    """A value and all that is in it, at any depth."""
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(inner)


def objects(value: object) -> Iterator[dict[str, Any]]:
    return (part for part in parts(value) if isinstance(part, dict))


def texts(value: object) -> Iterator[str]:
    return (part for part in parts(value) if isinstance(part, str))


def statements(value: object) -> Iterator[dict[str, Any]]:
    """Every statement of every policy, wherever it stands."""
    for part in objects(value):
        yield from part.get("Statement", ())


def references(value: object) -> Iterator[str]:
    """Whatever Ref and GetAtt name."""
    for part in objects(value):
        yield from texts(part.get("Ref", []))
        yield from part.get("Fn::GetAtt", ())[:1]


def test_cloudformation_takes_it() -> None:
    regions = ["eu-west-3", "eu-central-1", "eu-west-1"]
    assert lint_file(TEMPLATE, config=ManualArgs(regions=regions)) == []
    assert len(template_body().encode()) <= LARGEST_BODY


def test_what_is_sent_is_the_template(template: dict[str, Any], tmp_path: Path) -> None:
    """The comments are left out, and nothing else."""
    sent = tmp_path / "template.yaml"
    sent.write_text(template_body(), encoding="utf-8")
    assert decoded(sent) == template


def test_of_the_cluster_one_property_alone_is_unknown_to_the_linter(template: dict[str, Any], tmp_path: Path) -> None:
    """The template turns a whole rule off for it."""
    everything_checked = copy.deepcopy(template)
    del everything_checked["Resources"]["Cluster"]["Metadata"]["cfn-lint"]
    file = tmp_path / "template.json"
    file.write_text(json.dumps(everything_checked))
    [unknown] = lint_file(file, config=ManualArgs(regions=["eu-west-3"]))
    assert unknown.rule.id == "E3002"
    assert "'MonitoringConfiguration' was unexpected" in unknown.message


def test_a_wildcard_has_a_written_reason_and_no_reason_is_left_over(template: dict[str, Any]) -> None:
    reasons = template["Metadata"]["WildcardReasons"]
    allowed = [statement for statement in statements(template["Resources"]) if statement["Effect"] == "Allow"]
    wild = {
        statement.get("Sid")
        for statement in allowed
        if any("*" in text for key in ("Action", "Resource") for text in texts(statement.get(key, [])))
    }
    assert wild == set(reasons)


def test_no_bucket_can_be_read_by_others_or_without_tls(resources: dict[str, Any]) -> None:
    buckets = of_type(resources, "AWS::S3::Bucket")
    policies = {policy["Bucket"]["Ref"]: policy for policy in of_type(resources, "AWS::S3::BucketPolicy").values()}
    assert set(buckets) == {"InputBucket", "ModelsBucket", "OutputBucket", "LogsBucket"} == set(policies)
    for name, bucket in buckets.items():
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
        assert len(bucket["PublicAccessBlockConfiguration"]) == 4
        assert bucket["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
        [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
        [statement] = statements(policies[name])
        assert statement["Effect"] == "Deny"
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert buckets["InputBucket"]["VersioningConfiguration"] == {"Status": "Enabled"}


def test_whoever_is_allowed_is_named(resources: dict[str, Any]) -> None:
    for statement in statements(resources):
        if statement["Effect"] == "Allow" and "Principal" in statement:
            principals = list(texts(statement["Principal"]))
            assert principals
            assert all("*" not in principal for principal in principals)
            assert all(
                principal.endswith((".amazonaws.com", "${AWS::AccountId}:root")) or principal.startswith("logs.")
                for principal in principals
            )


def test_no_rule_deletes_records_manifests_or_models(resources: dict[str, Any]) -> None:
    buckets = of_type(resources, "AWS::S3::Bucket")

    def deleting(name: str) -> list[dict[str, Any]]:
        rules = [rule.get("Fn::If", [None, rule])[1] for rule in buckets[name]["LifecycleConfiguration"]["Rules"]]
        return [rule for rule in rules if "ExpirationInDays" in rule]

    assert deleting("InputBucket") == deleting("ModelsBucket") == []
    prefixes = [rule["Prefix"] for rule in deleting("OutputBucket")]
    assert prefixes == ["table/features/", "table/embeddings/", "table/quarantine/"]
    assert not any(f"table/{record}".startswith(prefix) for record in RECORDS for prefix in prefixes)


def test_everything_is_tagged(resources: dict[str, Any]) -> None:
    for name, resource in resources.items():
        if resource["Type"] in UNTAGGABLE:
            continue
        properties = resource["Properties"]
        tags = properties.get("Tags") or properties.get("ResourceTags")
        assert {"Key": "stack", "Value": {"Ref": "AWS::StackName"}} in tags, name


def test_the_master_never_runs_on_a_spot_node(resources: dict[str, Any]) -> None:
    cluster = resources["Cluster"]["Properties"]
    groups = cluster["Instances"]
    assert groups["MasterInstanceGroup"]["Market"] == groups["CoreInstanceGroup"]["Market"] == "ON_DEMAND"
    assert [group["Market"] for group in groups["TaskInstanceGroups"]] == ["SPOT"]
    [yarn] = cluster["Configurations"]
    assert yarn["ConfigurationProperties"] == {
        "yarn.node-labels.enabled": "true",
        "yarn.node-labels.am.default-node-label-expression": "CORE",
        "yarn.resourcemanager.am.max-attempts": "4",
    }
    _, limits, _ = cluster["ManagedScalingPolicy"]["Fn::If"]
    assert limits["ComputeLimits"]["MaximumOnDemandCapacityUnits"] == {"Ref": "CoreNodes"}
    assert limits["ComputeLimits"]["MaximumCoreCapacityUnits"] == {"Ref": "CoreNodes"}


def test_a_stream_does_not_end_when_it_is_idle(template: dict[str, Any]) -> None:
    policy = template["Resources"]["Cluster"]["Properties"]["AutoTerminationPolicy"]
    assert policy == {"Fn::If": ["IsBatch", {"IdleTimeout": {"Ref": "IdleSeconds"}}, {"Ref": "AWS::NoValue"}]}
    assert template["Parameters"]["Purpose"]["Default"] == "stream"


def test_nobody_reaches_a_node_from_outside(resources: dict[str, Any]) -> None:
    ingress = [
        *(rule for group in of_type(resources, "AWS::EC2::SecurityGroup").values()
          for rule in group.get("SecurityGroupIngress", ())),
        *of_type(resources, "AWS::EC2::SecurityGroupIngress").values(),
    ]  # fmt: skip
    assert ingress
    assert all("SourceSecurityGroupId" in rule and "CidrIp" not in rule for rule in ingress)


def test_the_cluster_is_made_after_its_network_and_deleted_before_it(resources: dict[str, Any]) -> None:
    """Whatever nodes reach others by: routes, rules, and the endpoints without which EMR does not start them."""

    def before(name: str) -> set[str]:
        direct = {*texts(resources[name].get("DependsOn", [])), *references(resources[name])} & set(resources)
        return direct.union(*map(before, direct))

    ways = {
        name
        for name, one in resources.items()
        if one["Type"].startswith("AWS::EC2::") and not name.startswith("Ssm")  # sessions of people can wait
    }
    assert ways <= before("Cluster")


def test_the_template_and_the_command_line_mean_the_same_regions(template: dict[str, Any]) -> None:
    [assertion] = template["Rules"]["DataStaysInTheEuropeanUnion"]["Assertions"]
    assert set(assertion["Assert"]["Fn::Contains"][0]) == EU_REGIONS
    assert template["Parameters"]["AllowNonEu"]["Default"] == "no"


def test_one_switch_turns_all_schedules_off(template: dict[str, Any]) -> None:
    """One that deploy does not set, so they stay off."""
    assert template["Conditions"]["Scheduled"]["Fn::And"][1] == {"Fn::Equals": [{"Ref": "Schedules"}, "yes"]}
    schedules = [one for one in template["Resources"].values() if one["Type"] == "AWS::Scheduler::Schedule"]
    conditions = [template["Conditions"][one["Condition"]]["Fn::And"] for one in schedules]
    assert len(conditions) == 2
    assert all({"Condition": "Scheduled"} in condition for condition in conditions)


def test_the_queue_hides_a_message_for_two_intervals(template: dict[str, Any]) -> None:
    interval = load_settings({}, SETTINGS).stream.interval.total_seconds()
    visibility = template["Parameters"]["VisibilitySeconds"]
    assert visibility["Default"] >= visibility["MinValue"] >= 2 * interval
    queue = template["Resources"]["Queue"]["Properties"]
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetters", "Arn"]}


def test_the_masters_attempts_fit_what_yarn_allows(resources: dict[str, Any]) -> None:
    places = spark_submit.Locations("s3://a", "s3://i", "s3://m", "s3://o", "eu-west-3")
    words = spark_submit.spark_submit_arguments("run", load_settings({}, SETTINGS), places)
    [yarn] = resources["Cluster"]["Properties"]["Configurations"]
    allowed = yarn["ConfigurationProperties"]["yarn.resourcemanager.am.max-attempts"]
    assert f"spark.yarn.maxAppAttempts={allowed}" in words


@pytest.mark.parametrize(
    ("table", "schema"),
    [("FeaturesTable", FEATURES), ("EmbeddingsTable", EMBEDDINGS), ("QuarantineTable", QUARANTINE)],
)
def test_athena_knows_every_column(resources: dict[str, Any], table: str, schema: pa.Schema) -> None:
    names = {"int64": "bigint", "int32": "int", "timestamp[us, tz=UTC]": "timestamp"}

    def in_athena(kind: pa.DataType) -> str:
        if pa.types.is_list(kind):
            return f"array<{in_athena(kind.value_type)}>"
        return names.get(str(kind), str(kind))

    given = resources[table]["Properties"]["TableInput"]
    columns = [(column["Name"], column["Type"]) for column in given["StorageDescriptor"]["Columns"]]
    assert columns == [(field.name, in_athena(field.type)) for field in schema]
    assert given["PartitionKeys"] == [{"Name": "date", "Type": "string"}]
    assert given["Parameters"]["storage.location.template"]["Fn::Sub"].endswith("/date=${!date}/")


def in_alarms(resources: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics that alarms look at, each as often as one does."""
    alarms = of_type(resources, "AWS::CloudWatch::Alarm").values()
    queries = [query for alarm in alarms for query in alarm.get("Metrics", ())]
    return [
        *(alarm for alarm in alarms if "MetricName" in alarm),
        *(query["MetricStat"]["Metric"] for query in queries if "MetricStat" in query),
    ]


def test_the_alarms_look_at_what_the_stream_tells(resources: dict[str, Any]) -> None:
    """At all of it but the duration of a micro-batch, which is well or not only beside the others."""
    ours = [one for one in in_alarms(resources) if not one["Namespace"].startswith("AWS/")]
    assert {one["MetricName"] for one in ours} == set(metrics._UNITS) - {"BatchSeconds"}
    for one in ours:
        assert one["Namespace"] == metrics.NAMESPACE
        assert one["Dimensions"] == [{"Name": metrics.DIMENSION, "Value": {"Fn::Sub": "s3://${OutputBucket}/table"}}]
    alarms = of_type(resources, "AWS::CloudWatch::Alarm").values()
    assert all(alarm["AlarmActions"] == [{"Ref": "Alarms"}] for alarm in alarms)


def test_the_dashboard_shows_what_the_stream_tells(resources: dict[str, Any]) -> None:
    """All but whether the model was refused, which is no curve."""
    widgets = json.loads(resources["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"])["widgets"]
    assert [widget["type"] for widget in widgets] == ["metric"] * 4
    shown = {}
    for widget in widgets:
        former: list[str] = []
        for row in widget["properties"]["metrics"]:
            former = [former[place] if word == "." else word for place, word in enumerate(row)]
            shown[former[1]] = (former[0], *former[2:])
    ours = {name: where for name, where in shown.items() if not where[0].startswith("AWS/")}
    assert set(ours) == set(metrics._UNITS) - {"ModelRefused"}
    assert set(ours.values()) == {(metrics.NAMESPACE, metrics.DIMENSION, "s3://${OutputBucket}/table")}


def test_status_asks_for_what_the_stream_tells() -> None:
    assert {name for name, *_ in cluster._METRICS} == set(metrics._UNITS)
    assert (cluster._NAMESPACE, cluster._DIMENSION) == (metrics.NAMESPACE, metrics.DIMENSION)


def test_there_is_a_budget_whether_anybody_is_told_or_not(resources: dict[str, Any]) -> None:
    assert "Condition" not in resources["Budget"]
    condition, told, nobody = resources["Budget"]["Properties"]["NotificationsWithSubscribers"]["Fn::If"]
    assert condition == "HasEmail"
    assert [one["Notification"]["Threshold"] for one in told] == [80, 100]
    assert nobody == {"Ref": "AWS::NoValue"}


def test_the_estimate_counts_what_the_template_makes(resources: dict[str, Any]) -> None:
    kinds = [endpoint["VpcEndpointType"] for endpoint in of_type(resources, "AWS::EC2::VPCEndpoint").values()]
    assert kinds.count("Interface") == cost._ENDPOINTS
    assert len(in_alarms(resources)) == cost._ALARMS
    assert len(metrics._UNITS) == cost._METRICS
