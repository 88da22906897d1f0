"""The stacks that run the programs, as data: schedules, nodes, networks, and what is told of a failure."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from botocore.session import get_session
from botocore.validate import validate_parameters

from conf.emr import cost, serverless, spark_submit
from conf.emr.application import SETTINGS
from conf.emr.stack import Part
from conf.loading import load_settings
from tests.support.templates import COMPUTES, PLACES, objects, of_type, parts, references, statements, texts


@pytest.mark.parametrize("part", COMPUTES)
def test_one_switch_turns_all_schedules_off_and_it_is_off_at_first(
    templates: dict[Part, dict[str, Any]], part: Part
) -> None:
    """Without a model every replay fails, so a person turns it on; deploy never sets it."""
    template = templates[part]
    assert template["Parameters"]["Schedules"]["Default"] == "no"
    assert {"Fn::Equals": [{"Ref": "Schedules"}, "yes"]} in objects(template["Conditions"]["Scheduled"])
    schedules = [one for one in template["Resources"].values() if one["Type"] == "AWS::Scheduler::Schedule"]
    assert len(schedules) == {"serverless": 4, "cluster": 3}[part]
    assert {one["Condition"] for one in schedules} == {"Scheduled"}


def test_a_scheduled_job_is_one_that_the_api_takes(templates: dict[Part, dict[str, Any]]) -> None:
    """With each parameter as deploy gives it; Scheduler wants capitals, and CloudFormation 4,096 characters."""
    shape = get_session().get_service_model("emr-serverless").operation_model("StartJobRun").input_shape
    drivers = serverless.scheduled_drivers(load_settings({}, SETTINGS), PLACES)
    for verb in ("Replay", "Refit", "Reconcile", "Export"):
        target = templates["serverless"]["Resources"][verb]["Properties"]["Target"]
        assert target["Arn"]["Fn::Sub"].endswith(":scheduler:::aws-sdk:emrserverless:startJobRun")
        driver = drivers[f"{verb}Job"]
        assert len(driver) <= 4096
        role = "arn:aws:iam::123456789012:role/pictures"
        text = target["Input"]["Fn::Sub"].replace(f"${{{verb}Job}}", driver).replace("${JobRole.Arn}", role)
        request = lowered(json.loads(text.replace("${Application}", "00abc")))
        request["clientToken"] = "5c0e1d2a-3b4c"  # Scheduler puts an id there
        validate_parameters(request, shape)
        known = shape.members
        assert set(request) <= set(known)
        assert set(request["jobDriver"]["sparkSubmit"]) <= set(known["jobDriver"].members["sparkSubmit"].members)
        assert request["mode"] == "BATCH"
        assert request["executionTimeoutMinutes"] == serverless.BATCH_MINUTES
        assert (
            request["jobDriver"]["sparkSubmit"]["entryPointArguments"][1] == spark_submit.SUBMITTED[verb.lower()].verb
        )
        [rights] = [one for one in statements(templates["serverless"]["Resources"]["SchedulerRole"])
                    if one["Action"] == "iam:PassRole"]  # fmt: skip
        assert rights["Resource"] == {"Fn::GetAtt": ["JobRole", "Arn"]}
        [rights] = [one for one in statements(templates["serverless"]["Resources"]["SchedulerRole"])
                    if one["Action"] == "ec2:CreateNetworkInterface"]  # fmt: skip
        assert rights["Condition"] == {"StringEquals": {"aws:CalledViaLast": "ops.emr-serverless.amazonaws.com"}}


def lowered(value: Any) -> Any:
    """As the API has the names."""
    if isinstance(value, dict):
        return {key[0].lower() + key[1:]: lowered(inner) for key, inner in value.items()}
    return [lowered(inner) for inner in value] if isinstance(value, list) else value


def test_an_idle_application_stops_and_has_a_network_only_if_asked_for(templates: dict[Part, dict[str, Any]]) -> None:
    application = templates["serverless"]["Resources"]["Application"]["Properties"]
    assert application["AutoStartConfiguration"] == {"Enabled": True}
    assert application["AutoStopConfiguration"]["Enabled"] is True
    assert "InitialCapacity" not in application  # it would be paid while nothing runs
    assert templates["serverless"]["Parameters"]["Network"]["Default"] == "no"
    made, _, otherwise = application["NetworkConfiguration"]["Fn::If"]
    assert (made, otherwise["Fn::If"][0]) == ("MakesNetwork", "HasSubnets")
    network = [one for one in templates["serverless"]["Resources"].values() if one["Type"].startswith("AWS::EC2::")]
    assert {one["Condition"] for one in network} == {"MakesNetwork"}
    assert templates["serverless"]["Parameters"]["Platform"]["Default"] == "aarch64"


@pytest.mark.parametrize(
    ("part", "rule", "kind", "states"),
    [
        ("serverless", "JobFailed", "EMR Serverless Job Run State Change", ["FAILED", "CANCELLED"]),
        ("cluster", "StepFailed", "EMR Step Status Change", ["FAILED", "CANCELLED"]),
        ("cluster", "ClusterFailed", "EMR Cluster State Change", ["TERMINATED_WITH_ERRORS"]),
    ],
)
def test_a_failure_is_a_mail_that_says_what_to_do(
    templates: dict[Part, dict[str, Any]], part: Part, rule: str, kind: str, states: list[str]
) -> None:
    properties = templates[part]["Resources"][rule]["Properties"]
    assert properties["EventPattern"]["detail-type"] == [kind]
    assert properties["EventPattern"]["detail"]["state"] == states
    [target] = properties["Targets"]
    assert target["Arn"]["Fn::Sub"].endswith(":${Name}-alarms")
    assert "RoleArn" not in target  # a topic has a policy of its own, and a role breaks an encrypted one
    text = target["InputTransformer"]["InputTemplate"]["Fn::Sub"]
    assert "python -m conf.emr" in text
    assert {*re.findall(r"<(\w+)>", text)} == set(target["InputTransformer"]["InputPathsMap"])
    assert json.loads(text)  # what is quoted is a text; EventBridge sends nothing else but JSON


def test_the_master_never_runs_on_a_spot_node(cluster: dict[str, Any]) -> None:
    properties = cluster["Cluster"]["Properties"]
    fleets = properties["Instances"]
    for fleet in (fleets["MasterInstanceFleet"], fleets["CoreInstanceFleet"]):
        assert "TargetSpotCapacity" not in fleet
    [task] = fleets["TaskInstanceFleets"]
    assert task["TargetOnDemandCapacity"] == 0
    assert task["TargetSpotCapacity"] == {"Ref": "TaskNodes"}
    for fleet in (fleets["MasterInstanceFleet"], fleets["CoreInstanceFleet"], task):
        types = [one["InstanceType"]["Fn::Select"] for one in fleet["InstanceTypeConfigs"]]
        assert types == [[number, {"Ref": "InstanceTypes"}] for number in range(3)]
    yarn, scheduler = properties["Configurations"]
    assert yarn["ConfigurationProperties"] == {
        "yarn.node-labels.enabled": "true",
        "yarn.node-labels.am.default-node-label-expression": "CORE",
        "yarn.resourcemanager.am.max-attempts": "4",
    }
    assert scheduler == {
        "Classification": "capacity-scheduler",
        "ConfigurationProperties": {"yarn.scheduler.capacity.maximum-am-resource-percent": "1"},
    }
    _, limits, _ = properties["ManagedScalingPolicy"]["Fn::If"]
    assert limits["ComputeLimits"]["UnitType"] == "InstanceFleetUnits"
    assert limits["ComputeLimits"]["MaximumOnDemandCapacityUnits"] == {"Ref": "CoreNodes"}
    assert limits["ComputeLimits"]["MaximumCoreCapacityUnits"] == {"Ref": "CoreNodes"}


def test_a_cluster_starts_with_no_task_node_and_only_spark(templates: dict[Part, dict[str, Any]]) -> None:
    assert templates["cluster"]["Parameters"]["TaskNodes"]["Default"] == 0
    properties = templates["cluster"]["Resources"]["Cluster"]["Properties"]
    assert properties["Applications"] == [{"Name": "Spark"}]
    assert "MonitoringConfiguration" not in properties  # not in the schema of every region


def test_a_stream_does_not_end_when_it_is_idle_and_a_batch_cluster_can(templates: dict[Part, dict[str, Any]]) -> None:
    template = templates["cluster"]
    policy = template["Resources"]["Cluster"]["Properties"]["AutoTerminationPolicy"]
    assert policy == {"Fn::If": ["IsBatch", {"IdleTimeout": {"Ref": "IdleSeconds"}}, {"Ref": "AWS::NoValue"}]}
    assert template["Parameters"]["Purpose"]["Default"] == "stream"
    refused = template["Rules"]["IdleClustersEnd"]
    assert refused["RuleCondition"] == {"Fn::Equals": [{"Ref": "Internet"}, "no"]}
    assert refused["Assertions"][0]["Assert"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "Purpose"}, "batch"]}]}


def test_a_cluster_that_ends_takes_no_schedules(templates: dict[Part, dict[str, Any]]) -> None:
    """It would not be there at their times; status tells of those that there are."""
    template = templates["cluster"]
    rule = template["Rules"]["SchedulesHaveACluster"]
    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "Purpose"}, "batch"]}
    [assertion] = rule["Assertions"]
    assert assertion["Assert"] == {"Fn::Equals": [{"Ref": "Schedules"}, "no"]}
    assert template["Outputs"]["Schedules"]["Value"] == {"Fn::If": ["Scheduled", "yes", "no"]}


def test_nobody_reaches_a_node_from_outside(cluster: dict[str, Any]) -> None:
    """Only nodes reach nodes; the group of EMR's endpoint takes TLS from the network, and nothing else."""
    groups = of_type(cluster, "AWS::EC2::SecurityGroup")
    assert "SecurityGroupIngress" not in groups["NodesGroup"]
    [alone] = of_type(cluster, "AWS::EC2::SecurityGroupIngress").values()
    assert alone["GroupId"] == alone["SourceSecurityGroupId"] == {"Ref": "NodesGroup"}
    [calls] = groups["ServiceGroup"]["SecurityGroupIngress"]
    assert (calls["FromPort"], calls["ToPort"], calls["CidrIp"]) == (443, 443, {"Fn::GetAtt": ["Vpc", "CidrBlock"]})
    assert not {8443, 9443} & {part for part in parts(cluster) if isinstance(part, int)}  # of release 7


def test_emr_finds_its_endpoint_and_makes_none_of_its_own(cluster: dict[str, Any]) -> None:
    endpoints = of_type(cluster, "AWS::EC2::VPCEndpoint")
    own = endpoints["EmrEndpoint"]
    assert own["ServiceName"] == {"Fn::Sub": "aws.api.${AWS::Region}.emr-service-cell01"}
    assert own["SecurityGroupIds"] == [{"Ref": "ServiceGroup"}]
    assert own["PrivateDnsEnabled"] is True
    optional = {name for name in endpoints if cluster[name].get("Condition") == "HasEndpoints"}
    assert set(endpoints) - optional == {"EmrEndpoint", "S3Endpoint"}
    assert not any("elasticmapreduce" in text for one in endpoints.values() for text in texts(one))


@pytest.mark.parametrize(("part", "last"), [("cluster", "Cluster"), ("serverless", "Application")])
def test_what_runs_programs_is_made_after_its_network_and_deleted_before_it(
    templates: dict[Part, dict[str, Any]], part: Part, last: str
) -> None:
    """Whatever machines reach others by: routes, rules, and the endpoints without which EMR does not start them."""
    resources = templates[part]["Resources"]

    def before(name: str) -> set[str]:
        direct = {*texts(resources[name].get("DependsOn", [])), *references(resources[name])} & set(resources)
        return direct.union(*map(before, direct))

    ways = {name for name, one in resources.items() if one["Type"].startswith("AWS::EC2::")}
    assert ways <= before(last)


def test_workers_without_a_way_to_the_internet_have_endpoints_for_what_they_call(
    templates: dict[Part, dict[str, Any]],
) -> None:
    """What the driver calls itself: pictures and tables, the queue, metrics, the table of the newest snapshot."""
    resources = templates["serverless"]["Resources"]
    endpoints = of_type(resources, "AWS::EC2::VPCEndpoint").values()
    services = {one["ServiceName"]["Fn::Sub"].rpartition(".")[2] for one in endpoints}
    assert services == {"s3", "sqs", "logs", "glue"}
    assert sum(one["VpcEndpointType"] == "Interface" for one in endpoints) == cost._ENDPOINTS
    assert not of_type(resources, "AWS::EC2::NatGateway")


def test_the_masters_attempts_fit_what_yarn_allows(cluster: dict[str, Any]) -> None:
    words = spark_submit.spark_submit_arguments("run", load_settings({}, SETTINGS), PLACES)
    yarn, _ = cluster["Cluster"]["Properties"]["Configurations"]
    allowed = yarn["ConfigurationProperties"]["yarn.resourcemanager.am.max-attempts"]
    assert f"spark.yarn.maxAppAttempts={allowed}" in words
