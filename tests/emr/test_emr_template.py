"""The stacks on AWS as data: what the templates promise about access, loss, money and place."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest
from cfnlint import ManualArgs
from cfnlint.api import lint_file

from conf.emr import cost, watching
from conf.emr.application import SETTINGS
from conf.emr.permissions import CREATION
from conf.emr.preflight import _WITHOUT_BUDGETS
from conf.emr.stack import EU_REGIONS, TEMPLATES, Part, template_of
from conf.loading import load_settings
from streaming.engine import metrics
from streaming.features.schema import EMBEDDINGS, FEATURES, QUARANTINE
from tests.support.templates import COMPUTES, PARTS, objects, of_type, references, statements, texts

LARGEST_BODY = 51_200  # bytes that CloudFormation takes without a bucket
MOST_LINES = 450  # that a person reads
UNTAGGABLE = {  # CloudFormation has no tags for these
    "AWS::EC2::Route",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::VPCGatewayAttachment",
    "AWS::EMR::SecurityConfiguration",
    "AWS::Events::Rule",  # it has them, and nothing is paid for it
    "AWS::Glue::Database",
    "AWS::Glue::Table",
    "AWS::IAM::InstanceProfile",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::Scheduler::Schedule",
}
RECORDS = ("_embeddings", "_manifests", "_known", "_lease", "_requests", "_forgotten", "_drain")


@pytest.mark.parametrize("part", PARTS)
def test_cloudformation_takes_it_in_every_region(part: Part) -> None:
    assert lint_file(TEMPLATES / f"{part}.yaml", config=ManualArgs(regions=sorted(EU_REGIONS))) == []


def test_a_template_is_small_enough_to_read_and_the_first_to_be_sent_without_a_bucket() -> None:
    for part in ("data", "serverless"):
        assert len((TEMPLATES / f"{part}.yaml").read_text().splitlines()) < MOST_LINES
    assert len((TEMPLATES / "data.yaml").read_bytes()) <= LARGEST_BODY


def test_what_the_program_reads_of_a_template_is_what_it_says(templates: dict[Part, dict[str, Any]]) -> None:
    for part in PARTS:
        read = template_of(part)
        assert list(read["Parameters"]) == list(templates[part]["Parameters"])
        for name, resource in read["Resources"].items():
            assert resource["Type"] == templates[part]["Resources"][name]["Type"]


def test_a_wildcard_has_a_written_reason_and_no_reason_is_left_over(templates: dict[Part, dict[str, Any]]) -> None:
    for template in templates.values():
        allowed = [statement for statement in statements(template["Resources"]) if statement["Effect"] == "Allow"]
        wild = {
            statement.get("Sid")
            for statement in allowed
            if any("*" in text for key in ("Action", "Resource") for text in texts(statement.get(key, [])))
        }
        assert wild == set(template["Metadata"]["WildcardReasons"])


def test_every_parameter_condition_and_resource_is_used(templates: dict[Part, dict[str, Any]]) -> None:
    """Roles, endpoints and groups among them; what stands for itself has a type that does."""
    alone = {  # nothing else needs to name these
        "Alarm", "Budget", "BucketPolicy", "QueuePolicy", "TopicPolicy", "Subscription", "Table", "WorkGroup", "Rule",
        "Schedule", "LogGroup", "Route", "SubnetRouteTableAssociation", "VPCGatewayAttachment", "SecurityGroupIngress",
        "SecurityGroupEgress",
    }  # fmt: skip
    for template in templates.values():
        resources = template["Resources"]
        rest = {key: value for key, value in template.items() if key != "Parameters"}
        named = {*references(rest), *texts([one.get("DependsOn", []) for one in resources.values()])}
        assert set(template["Parameters"]) <= named
        conditions = {*texts([one.get("Condition", []) for one in resources.values()])}
        conditions |= {part["Fn::If"][0] for part in objects(resources) if "Fn::If" in part}
        conditions |= {part["Condition"] for part in objects(template["Conditions"]) if "Condition" in part}
        assert set(template["Conditions"]) == conditions
        idle = {name for name, one in resources.items() if one["Type"].rpartition("::")[2] not in alone} - named
        assert idle == set()


def test_no_bucket_can_be_read_by_others_or_without_tls(data: dict[str, Any]) -> None:
    buckets = of_type(data, "AWS::S3::Bucket")
    policies = {policy["Bucket"]["Ref"]: policy for policy in of_type(data, "AWS::S3::BucketPolicy").values()}
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
        assert len(statement["Resource"]) == 2
    assert buckets["InputBucket"]["VersioningConfiguration"] == {"Status": "Enabled"}


def test_whoever_is_allowed_is_named(everything: dict[str, Any]) -> None:
    for statement in statements(everything):
        if statement["Effect"] == "Allow" and "Principal" in statement:
            principals = list(texts(statement["Principal"]))
            assert principals
            assert all("*" not in principal for principal in principals)
            assert all(
                principal.endswith((".amazonaws.com", "${AWS::AccountId}:root")) or principal.startswith("logs.")
                for principal in principals
            )


def test_the_key_is_for_whoever_uses_it(data: dict[str, Any]) -> None:
    """Rules and alarms write to an encrypted topic, EMR to an encrypted archive, CloudWatch to an encrypted group."""
    may = {principal for one in statements(data["Key"]) for principal in texts(one["Principal"])}
    assert {
        "cloudwatch.amazonaws.com", "events.amazonaws.com", "elasticmapreduce.amazonaws.com",
        "persistentappui.elasticmapreduce.amazonaws.com", "logs.${AWS::Region}.amazonaws.com",
    } <= may  # fmt: skip
    publishers = [one["Principal"]["Service"] for one in statements(data["AlarmsPolicy"])]
    assert publishers == ["cloudwatch.amazonaws.com", "events.amazonaws.com"]
    for one in (*statements(data["Key"]), *statements(data["AlarmsPolicy"])):
        if "events.amazonaws.com" in texts(one["Principal"]):
            assert "Condition" not in one  # EventBridge sends nothing that it could be judged by


def test_no_rule_deletes_records_manifests_or_models(data: dict[str, Any]) -> None:
    buckets = of_type(data, "AWS::S3::Bucket")

    def deleting(name: str) -> list[dict[str, Any]]:
        rules = [rule.get("Fn::If", [None, rule])[1] for rule in buckets[name]["LifecycleConfiguration"]["Rules"]]
        return [rule for rule in rules if "ExpirationInDays" in rule]

    assert deleting("InputBucket") == deleting("ModelsBucket") == []
    prefixes = [rule["Prefix"] for rule in deleting("OutputBucket")]
    assert prefixes == ["table/features/", "table/embeddings/", "table/quarantine/"]
    assert not any(f"table/{record}".startswith(prefix) for record in RECORDS for prefix in prefixes)


def test_everything_that_costs_is_tagged(everything: dict[str, Any]) -> None:
    for name, resource in everything.items():
        if resource["Type"] in UNTAGGABLE:
            continue
        properties = resource["Properties"]
        tags = properties.get("Tags") or properties.get("ResourceTags")
        assert {"Key": "stack", "Value": {"Ref": "Name"}} in tags, name


def test_all_templates_and_the_command_line_mean_the_same_regions(templates: dict[Part, dict[str, Any]]) -> None:
    for template in templates.values():
        [assertion] = template["Rules"]["DataStaysInTheEuropeanUnion"]["Assertions"]
        assert set(assertion["Assert"]["Fn::Contains"][0]) == EU_REGIONS
        assert template["Parameters"]["AllowNonEu"]["Default"] == "no"


def test_the_budget_is_left_out_where_cloudformation_has_none(templates: dict[Part, dict[str, Any]]) -> None:
    budget = templates["data"]["Resources"]["Budget"]
    assert budget["Condition"] == "HasBudgets"
    assert {*texts(templates["data"]["Conditions"]["HasBudgets"])} - {"AWS::Region"} == set(_WITHOUT_BUDGETS)
    condition, told, nobody = budget["Properties"]["NotificationsWithSubscribers"]["Fn::If"]
    assert condition == "HasEmail"
    assert [one["Notification"]["Threshold"] for one in told] == [80, 100]
    assert nobody == {"Ref": "AWS::NoValue"}


def test_both_forms_name_what_the_data_stack_makes(templates: dict[Part, dict[str, Any]]) -> None:
    """By convention, so that none has to import from another."""
    properties = [one["Properties"] for one in templates["data"]["Resources"].values()]
    made = {
        text.removeprefix("/picture-features/")
        for one in properties
        for key in ("BucketName", "QueueName", "TopicName", "LogGroupName")
        for text in texts(one.get(key, []))
    }
    for part in COMPUTES:
        named = {
            name
            for text in texts(templates[part]["Resources"])
            for name in re.findall(r"\$\{Name\}(?:-(?:input|models|output|logs)-\$\{AWS::AccountId\}-\$\{AWS::Region\}|"
                                   r"-(?:pictures|dead-letters|alarms))", text)
        }  # fmt: skip
        assert named == made - {"${Name}"}


def test_nobody_is_told_that_pictures_wait_in_a_queue_that_is_not_read(data: dict[str, Any]) -> None:
    assert data["NotTakenIn"]["Condition"] == "QueueIsTaken"


def test_the_queue_hides_a_message_for_two_intervals(templates: dict[Part, dict[str, Any]]) -> None:
    interval = load_settings({}, SETTINGS).stream.interval.total_seconds()
    visibility = templates["data"]["Parameters"]["VisibilitySeconds"]
    assert visibility["Default"] >= visibility["MinValue"] >= 2 * interval
    queue = templates["data"]["Resources"]["Queue"]["Properties"]
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetters", "Arn"]}
    waiting = templates["data"]["Parameters"]["MostSecondsWaiting"]["Default"]
    assert templates["serverless"]["Parameters"]["ReplaySchedule"]["Default"] == "rate(1 hour)"
    assert waiting >= 2 * 3600


@pytest.mark.parametrize(
    ("table", "schema"),
    [("FeaturesTable", FEATURES), ("EmbeddingsTable", EMBEDDINGS), ("QuarantineTable", QUARANTINE)],
)
def test_athena_knows_every_column(data: dict[str, Any], table: str, schema: pa.Schema) -> None:
    names = {"int64": "bigint", "int32": "int", "timestamp[us, tz=UTC]": "timestamp"}

    def in_athena(kind: pa.DataType) -> str:
        if pa.types.is_list(kind):
            return f"array<{in_athena(kind.value_type)}>"
        return names.get(str(kind), str(kind))

    given = data[table]["Properties"]["TableInput"]
    columns = [(column["Name"], column["Type"]) for column in given["StorageDescriptor"]["Columns"]]
    assert columns == [(field.name, in_athena(field.type)) for field in schema]
    assert given["PartitionKeys"] == [{"Name": "date", "Type": "string"}]
    assert given["Parameters"]["storage.location.template"]["Fn::Sub"].endswith("/date=${!date}/")


@pytest.mark.parametrize(("part", "role"), [("serverless", "JobRole"), ("cluster", "NodeRole")])
def test_an_export_may_point_its_one_table_and_no_other(
    templates: dict[Part, dict[str, Any]], part: Part, role: str
) -> None:
    [rights] = [
        one for one in statements(templates[part]["Resources"][role]) if one.get("Sid") == "PointTableAtSnapshot"
    ]
    assert rights["Action"] == ["glue:GetTable", "glue:CreateTable", "glue:UpdateTable"]
    table = next(text for text in texts(rights["Resource"]) if ":table/" in text)
    assert table.endswith(":table/${Database}/snapshot")


def in_alarms(resources: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics that alarms look at, each as often as one does."""
    alarms = of_type(resources, "AWS::CloudWatch::Alarm").values()
    queries = [query for alarm in alarms for query in alarm.get("Metrics", ())]
    return [
        *(alarm for alarm in alarms if "MetricName" in alarm),
        *(query["MetricStat"]["Metric"] for query in queries if "MetricStat" in query),
    ]


def test_the_alarms_look_at_what_the_stream_tells_and_say_what_to_do(data: dict[str, Any]) -> None:
    ours = [one for one in in_alarms(data) if not one["Namespace"].startswith("AWS/")]
    assert {one["MetricName"] for one in ours} <= set(metrics._UNITS)
    for one in ours:
        assert one["Namespace"] == metrics.NAMESPACE
        assert one["Dimensions"] == [{"Name": metrics.DIMENSION, "Value": {"Fn::Sub": "s3://${OutputBucket}/table"}}]
    for alarm in of_type(data, "AWS::CloudWatch::Alarm").values():
        assert alarm["AlarmActions"] == [{"Ref": "Alarms"}]
        said = " ".join(texts(alarm["AlarmDescription"]))
        assert "python -m " in said
        assert len(said) <= 1024 - 5 * 40  # names and regions are longer than what stands for them
        assert alarm["TreatMissingData"] == "notBreaching"  # nothing ran, which is no fault


def test_status_asks_for_what_the_stream_tells() -> None:
    assert {name for name, *_ in watching._METRICS} == set(metrics._UNITS)
    assert (watching._NAMESPACE, watching._DIMENSION) == (metrics.NAMESPACE, metrics.DIMENSION)


def test_the_estimate_counts_what_the_templates_make(data: dict[str, Any]) -> None:
    assert len(in_alarms(data)) == sum(map(cost._metrics_of, template_of("data")["Resources"].values()))
    assert len(metrics._UNITS) == cost._METRICS


def test_whoever_deploys_is_asked_for_the_rights_to_each_service(everything: dict[str, Any]) -> None:
    services = {one["Type"].split("::")[1] for one in everything.values()}
    assert services <= {kind.split("::")[1] for kind in CREATION}
