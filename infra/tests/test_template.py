"""What the deployed stack promises, held against the transformed template."""

import json
import re
import tomllib

import pytest
from samcli.cli.types import CfnParameterOverridesType
from samtranslator.yaml_helper import yaml_parse
from stack import (
    ACCOUNT,
    PROJECT,
    STACK,
    of_type,
    outputs,
    properties,
    render,
    source,
    statements,
    transformed,
    watched,
)

DAY = 24 * 3600
TWO_WEEKS = 14 * DAY
TOPIC = "arn:aws:sns:eu-central-1:123456789012:on-call"
SECRET = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:tiktok-AbCdEf"
KEY = "arn:aws:kms:eu-central-1:123456789012:key/11112222-3333-4444-5555-666677778888"


@pytest.fixture(scope="module")
def stack():
    return render()


def code(file):
    """A source file without its unit tests."""
    return (PROJECT / "src" / file).read_text().split("#[cfg(test)]")[0]


# Beside another stack


def test_nothing_has_a_name_that_another_stack_could_have_too():
    """Names are an account's in a region. CloudFormation makes one up, unless the template has one."""
    # An alias's name is its function's own, as a policy's is its role's, and a metric's belongs to whoever writes it.
    of_another = {"AWS::Lambda::Alias", "AWS::IAM::Policy"}
    for name, resource in transformed()["Resources"].items():
        for key, value in resource["Properties"].items():
            if not key.endswith("Name") or key == "MetricName" or resource["Type"] in of_another:
                continue
            names_another = isinstance(value, dict) and "Ref" in value
            assert names_another or "${AWS::StackName}" in value["Fn::Sub"], f"{name}.{key}"


def test_each_stack_has_its_own_namespace_of_metrics():
    written = [properties(render(), "Function")["Environment"]["Variables"]["METRICS_NAMESPACE"], NAMESPACE]
    assert written == [f"TikTokTokenRefresh/{STACK}"] * 2
    given = render(MetricsNamespace="Shops")
    assert properties(given, "Function")["Environment"]["Variables"]["METRICS_NAMESPACE"] == "Shops"
    namespaces = {each["Namespace"] for alarm in alarms(given).values() for each in watched(alarm)}
    assert namespaces == {"Shops", "AWS/Lambda", "AWS/SQS"}
    board = properties(given, "Dashboard")["DashboardBody"]
    assert '"Shops", ' in board
    assert "TikTokTokenRefresh" not in board


@pytest.mark.parametrize("namespace", ["none", "AWS/Lambda", "AWS/", "a b", ":a", "x" * 256])
def test_a_namespace_that_writes_no_metrics_or_is_awss_own_is_refused(namespace):
    pattern = source()["Parameters"]["MetricsNamespace"]["AllowedPattern"]
    assert not re.search(pattern, namespace)
    for good in ("", "Shops", "nonesuch", "Shops/none", "AWSome"):
        assert re.search(pattern, good), good


# The table, the secret and the key


def test_the_table_has_the_contracts_keys_and_costs_what_is_used(stack):
    table = properties(stack, "Table")
    assert table["KeySchema"] == [
        {"AttributeName": "team_id", "KeyType": "HASH"},
        {"AttributeName": "integration_id", "KeyType": "RANGE"},
    ]
    types = {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]}
    assert types == {"team_id": "S", "integration_id": "S"}
    assert table["BillingMode"] == "PAY_PER_REQUEST"


def test_the_table_is_encrypted_recoverable_and_survives_its_stack(stack):
    table = properties(stack, "Table")
    assert table["SSESpecification"] == {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": "Key.Arn"}
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["DeletionProtectionEnabled"] is True


@pytest.mark.parametrize("name", ["Key", "Table", "Secret", "WorkQueue", "DeadLetters", "Log", "PublicLog"])
def test_what_may_hold_a_token_or_its_history_is_kept_when_the_stack_goes(name):
    stack = render(PublicEndpoint="true")
    # A first deployment that fails leaves nothing. Only the table cannot be deleted: it is protected.
    assert stack[name]["DeletionPolicy"] == ("Retain" if name == "Table" else "RetainExceptOnCreate")
    assert stack[name]["UpdateReplacePolicy"] == "Retain"


def test_a_stack_that_nobody_will_miss_leaves_nothing():
    stack = render(RetainData="false", PublicEndpoint="true")
    kept = {name for name, each in stack.items() if each.get("DeletionPolicy", "Delete") != "Delete"}
    kept |= {name for name, each in stack.items() if each.get("UpdateReplacePolicy", "Delete") != "Delete"}
    assert not kept
    # Or it could not be deleted.
    assert properties(stack, "Table")["DeletionProtectionEnabled"] is False
    # Functions in a deletion policy need this transform, before all others.
    assert source()["Transform"][0] == "AWS::LanguageExtensions"


def test_a_new_secret_is_encrypted_and_has_no_value(stack):
    secret = properties(stack, "Secret")
    assert secret["KmsKeyId"] == "Key.Arn"
    assert not {"SecretString", "GenerateSecretString"} & secret.keys()


def test_the_key_is_rotated_and_left_to_the_accounts_policies(stack):
    key = properties(stack, "Key")
    assert key["EnableKeyRotation"] is True
    [statement] = key["KeyPolicy"]["Statement"]
    assert statement["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}


def test_the_key_has_a_name_for_people(stack):
    assert properties(stack, "KeyAlias") == {"AliasName": f"alias/{STACK}", "TargetKeyId": "Key"}


def test_whoever_reads_of_the_missed_runs_learns_that_a_secret_may_lie_there():
    for file, text in (
        ("infra/template.yaml", "`connect` or `import` asynchronously"),
        ("infra/README.md", "`connect` or an `import`"),
        ("docs/REFERENCE.md", "Invoke `connect` and `import` synchronously only"),
    ):
        # However the lines are broken.
        assert text in " ".join((PROJECT / file).read_text().replace("#", "").split()), file
    assert "asynchronously" in transformed()["Outputs"]["MissedRunsUrl"]["Description"]


# The night


def test_the_night_begins_at_two_in_utc_or_in_the_zone_that_is_given(stack):
    [(_, night)] = of_type(stack, "AWS::Scheduler::Schedule").items()
    assert night["Properties"]["ScheduleExpression"] == "cron(0 2 * * ? *)"
    assert night["Properties"]["ScheduleExpressionTimezone"] == "UTC"
    assert night["Properties"]["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert night["Properties"]["State"] == "ENABLED"
    [elsewhere] = of_type(render(TimeZone="Asia/Ho_Chi_Minh"), "AWS::Scheduler::Schedule").values()
    assert elsewhere["Properties"]["ScheduleExpressionTimezone"] == "Asia/Ho_Chi_Minh"


def test_the_schedule_can_be_another_or_pause():
    [pausing] = of_type(
        render(ScheduleExpression="rate(6 hours)", ScheduleState="DISABLED"), "AWS::Scheduler::Schedule"
    ).values()
    assert pausing["Properties"]["ScheduleExpression"] == "rate(6 hours)"
    assert pausing["Properties"]["State"] == "DISABLED"


def test_a_pause_that_is_forgotten_is_a_missing_night_and_tokens_are_rescued_meanwhile():
    stack = render(ScheduleState="DISABLED", AlarmTopicArn=TOPIC)
    assert alarms(stack)["NoCompletedRun"].get("ActionsEnabled", True)
    [source] = of_type(stack, "AWS::Lambda::EventSourceMapping").values()
    assert source["Properties"].get("Enabled", True)


def test_a_night_that_cannot_be_started_is_tried_for_an_hour_and_then_kept(stack):
    [night] = of_type(stack, "AWS::Scheduler::Schedule").values()
    target = night["Properties"]["Target"]
    assert target["Arn"] == "Function.Arn"
    # The function takes the scheduler's own event; an input of one's own would be another.
    assert "Input" not in target
    assert target["RetryPolicy"] == {"MaximumRetryAttempts": 3, "MaximumEventAgeInSeconds": 3600}
    assert target["DeadLetterConfig"] == {"Arn": "MissedRuns.Arn"}
    assert target["RoleArn"] == "SchedulerRole.Arn"


def test_a_night_that_fails_is_tried_once_more_within_the_hour_and_then_kept(stack):
    [(_, config)] = of_type(stack, "AWS::Lambda::EventInvokeConfig").items()
    assert config["Properties"] == {
        "FunctionName": "Function",
        "Qualifier": "$LATEST",
        "MaximumRetryAttempts": 1,
        "MaximumEventAgeInSeconds": 3600,
        "DestinationConfig": {"OnFailure": {"Destination": "MissedRuns.Arn"}},
    }


# The function


def test_the_function_is_what_lambda_runs(stack):
    function = properties(stack, "Function")
    assert (function["Runtime"], function["Handler"]) == ("provided.al2023", "bootstrap")
    assert function["Architectures"] == ["arm64"]
    assert properties(render(Architecture="x86_64"), "Function")["Architectures"] == ["x86_64"]
    assert function["Timeout"] == 900
    assert function["LoggingConfig"] == {"LogGroup": "Log"}
    assert properties(stack, "Log")["RetentionInDays"] == 90


def test_a_new_accounts_limit_of_10_suffices(stack):
    assert not properties(stack, "Function").get("ReservedConcurrentExecutions")
    [source] = of_type(stack, "AWS::Lambda::EventSourceMapping").values()
    # The nightly run, and room for people.
    assert source["Properties"]["ScalingConfig"]["MaximumConcurrency"] + 1 + 5 <= 10


def test_concurrency_can_be_reserved():
    assert properties(render(ReservedConcurrency=10), "Function")["ReservedConcurrentExecutions"] == 10


def test_all_workers_together_ask_tiktok_no_more_than_one_function_alone_would(stack):
    function = properties(stack, "Function")["Environment"]["Variables"]
    [source] = of_type(stack, "AWS::Lambda::EventSourceMapping").values()
    at_once = source["Properties"]["ScalingConfig"]["MaximumConcurrency"] + 1
    default = int(re.search(r'"MAX_REQUESTS_PER_SECOND", (\d+)', code("settings.rs"))[1])
    assert int(function["MAX_REQUESTS_PER_SECOND"]) * at_once <= default


def test_every_variable_that_the_code_reads_is_set_and_no_other():
    stack = render(EventBusName="platform")
    given = set(properties(stack, "Function")["Environment"]["Variables"])
    read = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', code("settings.rs")))
    assert len(read) > 12
    for_local_runs = {"TIKTOK_SHOP_APP_KEY", "TIKTOK_SHOP_APP_SECRET"}
    # It makes a function the public one.
    assert given == read - for_local_runs - {"PUBLIC_ENDPOINT"}


# The queues


@pytest.mark.parametrize("name", ["WorkQueue", "DeadLetters", "MissedRuns"])
def test_every_queue_is_encrypted_and_keeps_for_two_weeks(stack, name):
    queue = properties(stack, name)
    assert queue["KmsMasterKeyId"] == "Key.Arn"
    assert queue["MessageRetentionPeriod"] == TWO_WEEKS


def test_a_message_comes_back_as_soon_as_the_lease_of_a_killed_attempt_has_ended(stack):
    work, function = properties(stack, "WorkQueue"), properties(stack, "Function")
    skew = re.search(r"CLOCK_SKEW: TimeDelta = TimeDelta::seconds\((\d+)\)", code("domain/integration.rs"))
    lease = function["Timeout"] + int(skew[1])
    assert lease < work["VisibilityTimeout"] <= lease + 60


def test_a_message_is_tried_for_four_hours_before_a_person_must_look(stack):
    work = properties(stack, "WorkQueue")
    redrive = work["RedrivePolicy"]
    assert redrive["deadLetterTargetArn"] == "DeadLetters.Arn"
    assert (redrive["maxReceiveCount"] - 1) * work["VisibilityTimeout"] >= 4 * 3600


def test_the_alarm_on_the_oldest_message_goes_off_between_the_first_retry_and_the_second(stack):
    """SQS leaves a message out of this metric once it was received three times."""
    retry = properties(stack, "WorkQueue")["VisibilityTimeout"]
    threshold = alarms(stack)["WorkWaits"]["Threshold"]
    # The metric has a value a minute, and some of them must be above.
    assert retry < threshold <= 2 * retry - 3 * 60
    page = (PROJECT / "infra/README.md").read_text()
    [longest_drain] = re.findall(r"^\| 1,000,000 \| .* \| ([\d,]+) s \|", page, re.MULTILINE)
    assert int(longest_drain.replace(",", "")) < threshold


def test_a_message_that_failed_comes_back_alone(stack):
    [source] = of_type(stack, "AWS::Lambda::EventSourceMapping").values()
    assert source["Properties"]["EventSourceArn"] == "WorkQueue.Arn"
    assert source["Properties"]["FunctionName"] == "Function"
    assert source["Properties"]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert source["Properties"]["BatchSize"] == 1


# What is allowed

# What the code's calls to the SDK are named in a policy, where the name differs.
ACTION_OF_CALL = {"SendMessageBatch": "SendMessage"}
ADAPTERS = {
    "dynamodb": ["aws/dynamodb/mod.rs", "aws/dynamodb/scan.rs", "aws/dynamodb/update.rs", "aws/dynamodb/row.rs"],
    "secretsmanager": ["aws/secrets_manager.rs"],
    "sqs": ["aws/sqs.rs"],
    "events": ["aws/eventbridge.rs"],
}


def called_by_the_code():
    actions = set()
    for service, files in ADAPTERS.items():
        for file in files:
            for call in re.findall(r"\bclient\s*\.\s*([a-z_]+)\(\)", code(file)):
                name = "".join(word.capitalize() for word in call.split("_"))
                actions.add(f"{service}:{ACTION_OF_CALL.get(name, name)}")
    return actions


def test_no_other_file_calls_aws():
    """Keeps the list of adapters above complete."""
    files = {str(file.relative_to(PROJECT / "src")) for file in (PROJECT / "src").rglob("*.rs")}
    callers = {file for file in files if "aws_sdk_" in code(file) and ".send()" in code(file)}
    not_in_the_function = {file for file in callers if file.startswith(("local/", "cli/"))}
    assert callers - not_in_the_function <= {file for files in ADAPTERS.values() for file in files}


def test_the_function_may_do_what_its_code_and_lambda_in_its_name_do_and_nothing_else():
    stack = render(EventBusName="platform")
    allowed = {action for each in statements(stack, "FunctionRole") for action in each["Action"]}
    by_lambda = {
        # https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        # https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html
        "logs:CreateLogStream",
        "logs:PutLogEvents",
    }
    # What DynamoDB, Secrets Manager and SQS ask of the caller for a customer-managed key.
    for_the_key = {"kms:Decrypt", "kms:GenerateDataKey"}
    called = called_by_the_code()
    assert len(called) == 7
    assert allowed == called | by_lambda | for_the_key


def test_each_action_is_allowed_on_the_one_resource_that_it_is_for():
    stack = render(EventBusName="platform")
    allowed = {(action, each["Resource"][0]) for each in statements(stack, "FunctionRole") for action in each["Action"]}
    assert {resource for action, resource in allowed if action.startswith("dynamodb:")} == {"Table.Arn"}
    assert {resource for action, resource in allowed if action.startswith("secretsmanager:")} == {"Secret"}
    assert {resource for action, resource in allowed if action.startswith("logs:")} == {"Log.Arn"}
    assert {resource for action, resource in allowed if action.startswith("kms:")} == {"Key.Arn"}
    [bus] = {resource for action, resource in allowed if action.startswith("events:")}
    assert bus.endswith(":event-bus/platform")
    assert ("sqs:ReceiveMessage", "WorkQueue.Arn") in allowed
    assert ("sqs:SendMessage", "MissedRuns.Arn") in allowed
    assert ("sqs:ReceiveMessage", "MissedRuns.Arn") not in allowed


def test_the_scheduler_may_invoke_this_function_and_fill_its_dead_letters(stack):
    allowed = {(a, r) for each in statements(stack, "SchedulerRole") for a in each["Action"] for r in each["Resource"]}
    assert allowed == {
        ("lambda:InvokeFunction", "Function.Arn"),
        ("sqs:SendMessage", "MissedRuns.Arn"),
        ("kms:Decrypt", "Key.Arn"),
        ("kms:GenerateDataKey", "Key.Arn"),
    }
    [trust] = properties(stack, "SchedulerRole")["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    assert trust["Principal"] == {"Service": "scheduler.amazonaws.com"}


def test_no_policy_has_a_wildcard_and_no_role_has_anothers_policy():
    stack = render(EventBusName="platform", ExistingKeyArns=KEY, PublicEndpoint="true")
    roles, policies = of_type(stack, "AWS::IAM::Role"), of_type(stack, "AWS::IAM::ManagedPolicy")
    assert set(roles) == {"FunctionRole", "PublicRole", "SchedulerRole"}
    assert set(policies) == {"ReadersPolicy"}
    for name in roles | policies:
        assert not properties(stack, name).get("ManagedPolicyArns")
        for statement in statements(stack, name):
            assert statement["Effect"] == "Allow"
            assert not [each for each in statement["Action"] + statement["Resource"] if "*" in each], statement


def test_in_a_network_of_yours_the_function_may_have_its_network_interfaces(stack):
    """Lambda makes them in the function's name, and EC2 has no narrower resource for some of it.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html
    """
    assert not properties(stack, "Function").get("VpcConfig")
    inside = render(SubnetIds="subnet-1a,subnet-2b", SecurityGroupIds="sg-3c,sg-4d")
    assert properties(inside, "Function")["VpcConfig"] == {
        "SubnetIds": ["subnet-1a", "subnet-2b"],
        "SecurityGroupIds": ["sg-3c", "sg-4d"],
    }
    before, after = statements(stack, "FunctionRole"), statements(inside, "FunctionRole")
    [interfaces] = [each for each in after if each not in before]
    assert interfaces["Resource"] == ["*"]
    assert set(interfaces["Action"]) == {
        "ec2:CreateNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:DeleteNetworkInterface",
        "ec2:AssignPrivateIpAddresses",
        "ec2:UnassignPrivateIpAddresses",
    }


@pytest.mark.parametrize(
    ("public", "roles", "functions"),
    [
        ("false", ["FunctionRole"], ["Function.Arn"]),
        ("true", ["FunctionRole", "PublicRole"], ["Function.Arn", "PublicFunction.Arn"]),
    ],
)
def test_the_code_itself_may_not_touch_network_interfaces(public, roles, functions):
    """https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html"""
    assert "NoInterfacesForTheCode" not in render(PublicEndpoint=public)
    inside = render(SubnetIds="subnet-1a", SecurityGroupIds="sg-3c", PublicEndpoint=public)
    # What `AWS::NoValue` leaves behind is empty.
    assert [each for each in properties(inside, "NoInterfacesForTheCode")["Roles"] if each] == roles
    [denied] = statements(inside, "NoInterfacesForTheCode")
    [denied_to] = denied["Condition"]["ArnEquals"].values()
    assert denied["Condition"] == {"ArnEquals": {"lambda:SourceFunctionArn": denied_to}}
    assert [each for each in denied_to if each] == functions
    for role in roles:
        [allowed] = [each for each in statements(inside, role) if each["Sid"] == "NetworkInterfaces"]
        assert (denied["Effect"], denied["Resource"], denied["Action"]) == ("Deny", ["*"], allowed["Action"])


def test_subnets_without_security_groups_are_refused_before_anything_is_made():
    [[assertion]] = [rule["Assertions"] for rule in transformed()["Rules"].values()]

    def holds(part, given):
        [(name, value)] = part.items()
        if name == "Ref":
            return given[value]
        parts = [holds(each, given) if isinstance(each, dict) else each for each in value]
        known = {"Fn::Or": any, "Fn::And": all, "Fn::Not": lambda p: not p[0], "Fn::Equals": lambda p: p[0] == p[1]}
        return known[name](parts)

    for subnets, groups in (("", ""), ("subnet-1a", "sg-3c")):
        assert holds(assertion["Assert"], {"SubnetIds": subnets, "SecurityGroupIds": groups})
    for subnets, groups in (("subnet-1a", ""), ("", "sg-3c")):
        assert not holds(assertion["Assert"], {"SubnetIds": subnets, "SecurityGroupIds": groups})


def test_every_role_is_bounded_where_the_account_demands_it():
    boundary = "arn:aws:iam::123456789012:policy/boundary"
    stack = render(PublicEndpoint="true")
    bounded = render(PermissionsBoundaryArn=boundary, PublicEndpoint="true")
    for name in of_type(stack, "AWS::IAM::Role"):
        assert not properties(stack, name).get("PermissionsBoundary")
        assert properties(bounded, name)["PermissionsBoundary"] == boundary, name


def test_the_keys_are_used_by_way_of_the_services_alone():
    stack = render(ExistingKeyArns=KEY, PublicEndpoint="true")
    for role in ("FunctionRole", "PublicRole", "SchedulerRole", "ReadersPolicy"):
        for statement in statements(stack, role):
            if any(action.startswith("kms:") for action in statement["Action"]):
                via = statement["Condition"]["StringEquals"]["kms:ViaService"]
                via = via if isinstance(via, list) else [via]
                assert via
                assert all(each.endswith(".eu-central-1.amazonaws.com") for each in via)


# What applications may


def allowed_to_readers(**parameters):
    stack = render(**parameters)
    return {(a, r) for each in statements(stack, "ReadersPolicy") for a in each["Action"] for r in each["Resource"]}


def test_applications_have_an_alias_of_the_current_code(stack):
    [(name, alias)] = of_type(stack, "AWS::Lambda::Alias").items()
    assert name == "EnsureAlias"
    # The function looks for this name at the end of the invoked ARN.
    assert alias["Properties"]["Name"] == "ensure"
    assert alias["Properties"]["FunctionName"] == "Function"
    assert alias["Properties"]["FunctionVersion"] == "$LATEST"


def test_nothing_but_applications_goes_by_the_alias(stack):
    """There only one action is accepted: a night or a message would be refused."""
    for name, resource in stack.items():
        users = {"ReadersPolicy"} if "EnsureAlias" in json.dumps(resource) else set()
        assert name in users or not users, name


def test_readers_may_read_a_row_and_invoke_the_alias_and_nothing_else():
    assert allowed_to_readers() == {
        ("dynamodb:GetItem", "Table.Arn"),
        ("lambda:InvokeFunction", "EnsureAlias"),
        ("kms:Decrypt", "Key.Arn"),
    }


def test_readers_see_what_an_application_needs_and_never_a_refresh_token(stack):
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html"""
    [table] = [each for each in statements(stack, "ReadersPolicy") if each["Sid"] == "Table"]
    # A read without a list of attributes is refused, or it would return all of them.
    assert table["Condition"]["StringEquals"] == {"dynamodb:Select": "SPECIFIC_ATTRIBUTES"}
    seen = set(table["Condition"]["ForAllValues:StringEquals"]["dynamodb:Attributes"])
    assert not {"refresh_token", "lock_owner", "rejected_by"} & seen
    keys = {each["AttributeName"] for each in properties(stack, "Table")["KeySchema"]}
    readme = (PROJECT / "docs/REFERENCE.md").read_text().split("## The table")[1].split("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", readme, re.MULTILINE))))
    assert keys <= seen <= documented | keys
    for file in ("python/tiktok_tokens.py", "node/tiktok-tokens.mjs", "php/TikTokShopTokens.php"):
        text = (PROJECT / "clients" / file).read_text()
        [read] = re.findall(r"ProjectionExpression['\"]?(?:=|:| =>) ?['\"]([^'\"]+)", text)
        assert {name.strip("#") for name in read.split(", ")} <= seen, file


def test_readers_of_an_existing_table_use_its_key_if_it_has_one():
    table = f"arn:aws:dynamodb:eu-central-1:{ACCOUNT}:table/shops"
    without = {("dynamodb:GetItem", table), ("lambda:InvokeFunction", "EnsureAlias")}
    assert allowed_to_readers(ExistingTableName="shops") == without
    assert allowed_to_readers(ExistingTableName="shops", ExistingKeyArns=KEY) == without | {("kms:Decrypt", KEY)}
    # The key of an existing secret is not theirs.
    assert ("kms:Decrypt", KEY) not in allowed_to_readers(ExistingKeyArns=KEY)


def test_readers_decrypt_by_way_of_dynamodb_alone(stack):
    [key] = [each for each in statements(stack, "ReadersPolicy") if "kms:Decrypt" in each["Action"]]
    assert key["Condition"] == {"StringEquals": {"kms:ViaService": "dynamodb.eu-central-1.amazonaws.com"}}


# The sellers' way back


def test_there_is_no_public_endpoint_unless_one_is_asked_for(stack):
    assert not [name for name in stack if name.startswith("Public")]
    assert not of_type(stack, "AWS::Lambda::Url")
    assert not [each for each in outputs() if each.startswith("Public")]


def test_the_public_function_is_the_same_package_and_answers_requests_alone():
    stack = render(PublicEndpoint="true", EventBusName="platform")
    main, public = properties(stack, "Function"), properties(stack, "PublicFunction")
    for name in ("Code", "Handler", "Runtime", "Architectures"):
        assert public[name] == main[name]
    variables, of_main = public["Environment"]["Variables"], main["Environment"]["Variables"]
    assert variables.pop("PUBLIC_ENDPOINT") == "true"
    assert "PUBLIC_ENDPOINT" not in of_main
    # It writes no runs' metrics, and has no queue.
    assert variables.pop("METRICS_NAMESPACE") == "none"
    assert variables.items() <= of_main.items()
    assert "WORK_QUEUE_URL" not in variables
    # Nothing else invokes it, and a failed request is not tried again.
    assert not [each for each in of_type(stack, "AWS::Lambda::EventSourceMapping").values() if "Public" in str(each)]
    assert "PublicFunction" not in json.dumps(of_type(stack, "AWS::Scheduler::Schedule"))


def test_browsers_reach_the_public_function_by_its_url_alone():
    stack = render(PublicEndpoint="true")
    [url] = of_type(stack, "AWS::Lambda::Url").values()
    assert url["Properties"] == {"TargetFunctionArn": "PublicFunction", "AuthType": "NONE"}
    permissions = [each["Properties"] for each in of_type(stack, "AWS::Lambda::Permission").values()]
    strangers = [each for each in permissions if each["Principal"] == "*"]
    assert {each["Action"] for each in strangers} == {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
    for each in strangers:
        assert each["FunctionName"] == "PublicFunction"
        # Without the condition anybody could invoke the function with any event.
        assert each.get("FunctionUrlAuthType") == "NONE" or each.get("InvokedViaFunctionUrl") is True
    redirect = outputs(PublicEndpoint="true")["PublicUrl"]
    assert redirect.endswith("connect")
    assert redirect.count("/") in (0, 3)


def test_the_public_function_may_connect_a_row_and_nothing_else():
    stack = render(PublicEndpoint="true", EventBusName="platform")
    allowed = {(a, r) for each in statements(stack, "PublicRole") for a in each["Action"] for r in each["Resource"]}
    [bus] = {resource for action, resource in allowed if action == "events:PutEvents"}
    assert bus.endswith(":event-bus/platform")
    assert allowed == {
        ("dynamodb:GetItem", "Table.Arn"),
        ("dynamodb:UpdateItem", "Table.Arn"),
        ("secretsmanager:GetSecretValue", "Secret"),
        ("kms:Decrypt", "Key.Arn"),
        ("events:PutEvents", bus),
        ("logs:CreateLogStream", "PublicLog.Arn"),
        ("logs:PutLogEvents", "PublicLog.Arn"),
    }
    again = render(ExistingTableName="shops", ExistingSecretArn=SECRET, ExistingKeyArns=KEY, PublicEndpoint="true")
    resources = {r for each in statements(again, "PublicRole") for r in each["Resource"]}
    assert resources >= {f"arn:aws:dynamodb:eu-central-1:{ACCOUNT}:table/shops", SECRET, KEY}


def test_the_public_function_has_a_log_and_a_share_of_concurrency_of_its_own():
    public = properties(render(PublicEndpoint="true"), "PublicFunction")
    assert public["LoggingConfig"] == {"LogGroup": "PublicLog"}
    assert not public.get("ReservedConcurrentExecutions")
    reserved = render(PublicEndpoint="true", PublicReservedConcurrency=5)
    assert properties(reserved, "PublicFunction")["ReservedConcurrentExecutions"] == 5
    assert not properties(reserved, "Function").get("ReservedConcurrentExecutions")


def test_the_public_function_has_time_for_two_exchanges_and_a_save():
    public = properties(render(PublicEndpoint="true"), "PublicFunction")
    reserve = int(re.search(r"save_reserve: Duration::from_secs\((\d+)\)", code("domain/retry_policy.rs"))[1])
    # The longest that TikTokTimeout may be, and as much as DynamoDB and Secrets Manager usually take.
    assert allowed("TikTokTimeout", "60s")
    assert not allowed("TikTokTimeout", "61s")
    assert public["Timeout"] >= 2 * 60 + reserve + 20


def test_in_a_network_of_yours_the_public_function_has_the_same_address():
    inside = render(SubnetIds="subnet-1a,subnet-2b", SecurityGroupIds="sg-3c", PublicEndpoint="true")
    assert properties(inside, "PublicFunction")["VpcConfig"] == properties(inside, "Function")["VpcConfig"]
    of_both = [
        [each for each in statements(inside, role) if each["Sid"] == "NetworkInterfaces"]
        for role in ("FunctionRole", "PublicRole")
    ]
    assert of_both[0] == of_both[1] != []


# What the next stack, an application and a policy of the operator's need to know


def test_the_outputs_name_what_others_refer_to():
    expected = {
        "FunctionName": "Function",
        "FunctionArn": "Function.Arn",
        "EnsureAliasArn": "EnsureAlias",
        "ReadersPolicyArn": "ReadersPolicy",
        "ScheduleName": "FunctionNightly",
        "EventSourceMappingId": "FunctionWork",
        "TableName": "Table",
        "TableArn": "Table.Arn",
        "KeyArn": "Key.Arn",
        "SecretArn": "Secret",
        "WorkQueueUrl": "WorkQueue",
        "DeadLettersUrl": "DeadLetters",
        "MissedRunsUrl": "MissedRuns",
        "LogGroupName": "Log",
        "DashboardName": "Dashboard",
    }
    assert outputs() == expected
    # And in a stack that is put back on what an earlier one left.
    again = outputs(ExistingTableName="shops", ExistingSecretArn=SECRET, ExistingKeyArns=KEY, CustomMetrics="false")
    table = f"arn:aws:dynamodb:eu-central-1:{ACCOUNT}:table/shops"
    assert again == expected | {"TableName": "shops", "TableArn": table, "SecretArn": SECRET}


def test_a_stack_that_is_put_back_can_decrypt_what_the_earlier_one_encrypted():
    again = render(ExistingTableName="shops", ExistingSecretArn=SECRET, ExistingKeyArns=KEY)
    [keys] = [each for each in statements(again, "FunctionRole") if each["Sid"] == "ExistingKeys"]
    assert keys["Resource"] == [KEY]
    assert {each.split(".")[0] for each in keys["Condition"]["StringEquals"]["kms:ViaService"]} == {
        "dynamodb",
        "secretsmanager",
    }


# What exists already


def test_an_existing_table_is_used_instead_of_a_new_one():
    stack = render(ExistingTableName="shops")
    assert "Table" not in stack
    assert properties(stack, "Function")["Environment"]["Variables"]["TABLE_NAME"] == "shops"
    [table] = [each for each in statements(stack, "FunctionRole") if each["Sid"] == "Table"]
    [arn] = table["Resource"]
    assert arn.startswith("arn:aws:dynamodb:eu-central-1:")
    assert arn.endswith(":table/shops")


def test_an_existing_secret_is_used_instead_of_a_new_one():
    stack = render(ExistingSecretArn=SECRET)
    assert "Secret" not in stack
    assert properties(stack, "Function")["Environment"]["Variables"]["APP_CREDENTIALS_SECRET_ID"] == SECRET
    [secret] = [each for each in statements(stack, "FunctionRole") if each["Sid"] == "Secret"]
    assert secret["Resource"] == [SECRET]


def test_a_secrets_arn_without_its_end_is_refused():
    """A policy on it would allow nothing: the function would fail at night."""
    for good in ("", SECRET, "arn:aws:secretsmanager:eu-central-1:123456789012:secret:team/tiktok-app-a1B2c3"):
        assert allowed("ExistingSecretArn", good), good
    for bad in (SECRET.removesuffix("-AbCdEf"), SECRET[:-1], SECRET + "*", "tiktok-AbCdEf"):
        assert not allowed("ExistingSecretArn", bad), bad


def test_what_exists_may_have_a_key_of_its_own(stack):
    assert "ExistingKeys" not in {each["Sid"] for each in statements(stack, "FunctionRole")}
    [keys] = [each for each in statements(render(ExistingKeyArns=KEY), "FunctionRole") if each["Sid"] == "ExistingKeys"]
    assert (keys["Action"], keys["Resource"]) == (["kms:Decrypt"], [KEY])


# What watches it

NAMESPACE = f"TikTokTokenRefresh/{STACK}"


def alarms(stack):
    return {name: each["Properties"] for name, each in of_type(stack, "AWS::CloudWatch::Alarm").items()}


def expression(alarm):
    [returned] = [each for each in alarm["Metrics"] if each.get("ReturnData", True)]
    return returned["Expression"]


def window(alarm):
    [period] = {each["Period"] for each in watched(alarm)}
    return period * alarm["EvaluationPeriods"]


@pytest.mark.parametrize(
    ("name", "metric", "statistic", "comparison", "threshold"),
    [
        ("NewlyCannotRefresh", "NewlyCannotRefresh", "Sum", "GreaterThanThreshold", 0),
        ("AppsUnderSuspicion", "AppsUnderSuspicion", "Maximum", "GreaterThanThreshold", 0),
        ("ExpiredAccessTokens", "ExpiredAccessTokens", "Maximum", "GreaterThanThreshold", 0),
        ("RunNotComplete", "RunCompleted", "Minimum", "LessThanThreshold", 1),
        ("OutcomeUnknown", "OutcomeUnknown", "Sum", "GreaterThanThreshold", 10),
        ("Throttles", "Throttles", "Sum", "GreaterThanThreshold", 0),
        ("PublicFailures", "Url5xxCount", "Sum", "GreaterThanThreshold", 0),
        ("PublicThrottles", "Throttles", "Sum", "GreaterThanThreshold", 0),
        ("NearTimeout", "Duration", "Maximum", "GreaterThanThreshold", 840_000),
        ("WorkInDeadLetters", "ApproximateNumberOfMessagesVisible", "Maximum", "GreaterThanThreshold", 0),
        ("RunInDeadLetters", "ApproximateNumberOfMessagesVisible", "Maximum", "GreaterThanThreshold", 0),
        ("WorkWaits", "ApproximateAgeOfOldestMessage", "Maximum", "GreaterThanThreshold", 1800),
    ],
)
def test_the_alarms(name, metric, statistic, comparison, threshold):
    alarm = alarms(render(PublicEndpoint="true"))[name]
    assert (alarm["MetricName"], alarm["Statistic"]) == (metric, statistic)
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == (comparison, threshold)


def test_no_alarm_is_on_a_number_that_never_falls(stack):
    """Marked rows stay until their sellers act, and some never do."""
    assert "CannotRefresh" not in {each["MetricName"] for alarm in alarms(stack).values() for each in watched(alarm)}


@pytest.mark.parametrize(("metrics", "name"), [("true", "NoCompletedRun"), ("false", "NoInvocation")])
def test_a_missing_night_is_noticed_after_26_hours(metrics, name):
    alarm = alarms(render(CustomMetrics=metrics))[name]
    assert window(alarm) == 26 * 3600
    # All of them must be without a run: one in the window is enough.
    assert alarm.get("DatapointsToAlarm", alarm["EvaluationPeriods"]) == alarm["EvaluationPeriods"]
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("LessThanThreshold", 1)
    # Where data is missing, CloudWatch looks for older data instead, unless a number stands in for it.
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
    [run] = [each["Id"] for each in alarm["Metrics"] if "MetricStat" in each]
    assert expression(alarm) == f"FILL({run}, 0)"
    assert alarm["TreatMissingData"] == "breaching"


def test_the_missing_night_is_the_schedules_own():
    [completed] = watched(alarms(render())["NoCompletedRun"])
    assert (completed["MetricName"], completed["Statistic"]) == ("RunCompleted", "Sum")
    assert completed["Dimensions"] == [{"Name": "trigger", "Value": "schedule"}]
    # Neither a dashboard, nor an application, nor the queue invokes asynchronously: they must not hide a missing night.
    [started] = watched(alarms(render(CustomMetrics="false"))["NoInvocation"])
    assert (started["MetricName"], started["Statistic"]) == ("AsyncEventsReceived", "Sum")


def test_only_a_run_that_is_missing_makes_missing_data_an_alarm(stack):
    treatment = {name: alarm["TreatMissingData"] for name, alarm in alarms(stack).items()}
    assert {name for name, missing in treatment.items() if missing == "breaching"} == {"NoCompletedRun"}
    assert set(treatment.values()) == {"breaching", "notBreaching"}


def test_what_a_night_reports_is_green_again_before_the_next_night_and_seen_in_the_morning(stack):
    """An alarm speaks when it changes: one that were still red could not tell of the next night."""
    of_runs = [
        name for name, alarm in alarms(stack).items() if any(m["Namespace"] == NAMESPACE for m in watched(alarm))
    ]
    nightly = set(of_runs) - {"NoCompletedRun", "Errors"}
    assert len(nightly) == 5
    for name in nightly:
        alarm = alarms(stack)[name]
        assert alarm["Period"] == 3600, name
        assert 8 * 3600 <= window(alarm) <= 20 * 3600, name
        assert alarm["DatapointsToAlarm"] == 1, name


def test_a_typing_slip_in_an_event_is_no_failed_night(stack):
    alarm = alarms(stack)["Errors"]
    assert expression(alarm) == "errors - FILL(slips, 0)"
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("GreaterThanThreshold", 0)
    errors, slips = [each["MetricStat"] for each in alarm["Metrics"] if "MetricStat" in each]
    assert [each["Id"] for each in alarm["Metrics"][1:]] == ["errors", "slips"]
    assert (errors["Metric"]["Namespace"], errors["Metric"]["MetricName"]) == ("AWS/Lambda", "Errors")
    assert {errors["Stat"], slips["Stat"]} == {"Sum"}
    assert errors["Period"] == slips["Period"]


@pytest.mark.parametrize("metrics", ["true", "false"])
def test_each_slip_is_one_line_that_is_counted(metrics):
    stack = render(CustomMetrics=metrics, MetricsNamespace="Shops")
    [slips] = [each for each in watched(alarms(stack)["Errors"]) if each["MetricName"] == "BadEvents"]
    [counted] = properties(stack, "BadEvents")["MetricTransformations"]
    assert (slips["Namespace"], slips["Dimensions"]) == ("Shops", [])
    assert counted == {"MetricNamespace": "Shops", "MetricName": "BadEvents", "MetricValue": "1"}
    assert properties(stack, "BadEvents")["LogGroupName"] == "Log"
    # The line as the code writes it; test_package.py sees it, once for each event.
    start = re.search(r'#\[error\("(bad event): ', code("event/read.rs"))[1]
    assert properties(stack, "BadEvents")["FilterPattern"] == f'{{ $.level = "ERROR" && $.message = "{start}*" }}'


def test_no_alarm_looks_back_further_than_cloudwatch_lets_it():
    """Seven days at periods of an hour or more, one day below.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
    """
    for metrics in ("true", "false"):
        for name, alarm in alarms(render(CustomMetrics=metrics)).items():
            shortest = min(each["Period"] for each in watched(alarm))
            assert window(alarm) <= (7 * DAY if shortest >= 3600 else DAY), name


@pytest.mark.parametrize(
    ("name", "function"),
    [("Errors", "Function"), ("NearTimeout", "Function"), ("PublicFailures", "PublicFunction")],
)
def test_an_alarm_sees_an_invocation_that_ends_with_the_time_out(name, function):
    """Lambda dates a metric by the start of the invocation, and sends it at the end.

    https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-view.html
    """
    stack = render(PublicEndpoint="true")
    alarm = alarms(stack)[name]
    [period] = {each["Period"] for each in watched(alarm)}
    # The start is anywhere in its period, and CloudWatch needs some minutes.
    assert window(alarm) >= properties(stack, function)["Timeout"] + 2 * period
    assert alarm["DatapointsToAlarm"] == 1


def test_the_alarm_near_the_time_out_goes_off_before_it(stack):
    time_out = properties(stack, "Function")["Timeout"] * 1000
    assert time_out * 0.9 <= alarms(stack)["NearTimeout"]["Threshold"] < time_out


def test_alarms_on_aws_metrics_name_resources_of_this_stack():
    for metrics in ("true", "false"):
        stack = render(CustomMetrics=metrics, PublicEndpoint="true")
        for name, metric in [(name, each) for name, alarm in alarms(stack).items() for each in watched(alarm)]:
            dimensions = {each["Name"]: each["Value"] for each in metric["Dimensions"]}
            if metric["Namespace"] == "AWS/Lambda":
                # All versions and aliases together.
                function = "PublicFunction" if name.startswith("Public") else "Function"
                assert dimensions == {"FunctionName": function}, name
            elif metric["Namespace"] == "AWS/SQS":
                [(dimension, queue)] = dimensions.items()
                assert dimension == "QueueName"
                assert stack[queue.removesuffix(".QueueName")]["Type"] == "AWS::SQS::Queue", name
            else:
                assert metric["Namespace"] == NAMESPACE, name


@pytest.mark.parametrize("metrics", ["true", "false"])
def test_the_alarms_tell_a_topic_and_an_address_when_they_go_off_and_when_they_are_over(metrics):
    for parameters, told in (
        ({}, []),
        ({"AlarmTopicArn": TOPIC}, [TOPIC]),
        ({"AlarmEmail": "on-call@example.com"}, ["AlarmTopic"]),
        ({"AlarmTopicArn": TOPIC, "AlarmEmail": "on-call@example.com"}, [TOPIC, "AlarmTopic"]),
    ):
        stack = render(CustomMetrics=metrics, PublicEndpoint="true", **parameters)
        for name, alarm in alarms(stack).items():
            # What `AWS::NoValue` leaves behind is empty.
            assert [each for each in alarm["AlarmActions"] if each] == told, name
            assert [each for each in alarm["OKActions"] if each] == told, name
        assert ("AlarmTopic" in stack) == ("AlarmEmail" in parameters)
    [subscription] = properties(stack, "AlarmTopic")["Subscription"]
    assert subscription == {"Protocol": "email", "Endpoint": "on-call@example.com"}


def test_every_alarm_leads_to_a_page_of_the_runbook():
    headings = set(re.findall(r"^#+ (.+)$", (PROJECT / "infra/README.md").read_text(), re.MULTILINE))
    for metrics in ("true", "false"):
        for name, alarm in alarms(render(CustomMetrics=metrics, PublicEndpoint="true")).items():
            heading = re.fullmatch(r".+\. Runbook - (.+)\.", alarm["AlarmDescription"])[1]
            assert heading in headings, name


def test_the_runbook_says_of_every_alarm_how_long_it_stays_red():
    page = (PROJECT / "infra/README.md").read_text()
    [table] = re.findall(r"^\| alarm \| .*? green again \|\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    listed = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    stacks = [render(CustomMetrics=metrics, PublicEndpoint="true") for metrics in ("true", "false")]
    assert listed == {name for stack in stacks for name in alarms(stack)}
    for name in ("Errors", "NearTimeout", "PublicFailures"):
        [line] = [line for line in table.splitlines() if f"`{name}`" in line.split("|")[1]]
        assert f"{window(alarms(stacks[0])[name]) // 60} minutes" in line, name
    for name in ("NewlyCannotRefresh", "AppsUnderSuspicion", "ExpiredAccessTokens", "RunNotComplete", "OutcomeUnknown"):
        [line] = [line for line in table.splitlines() if f"`{name}`" in line.split("|")[1]]
        assert f"{window(alarms(render())[name]) // 3600} hours" in line, name


def test_without_custom_metrics_the_runs_write_none_and_nothing_watches_them():
    stack = render(CustomMetrics="false")
    assert properties(stack, "Function")["Environment"]["Variables"]["METRICS_NAMESPACE"] == "none"
    of_ours = {
        m["MetricName"] for alarm in alarms(stack).values() for m in watched(alarm) if m["Namespace"] == NAMESPACE
    }
    assert of_ours == {"BadEvents"}
    assert NAMESPACE not in properties(stack, "Dashboard")["DashboardBody"]


@pytest.mark.parametrize("public", ["true", "false"])
@pytest.mark.parametrize("metrics", ["true", "false"])
def test_the_dashboard_shows_the_status_and_every_alarm(metrics, public):
    stack = render(CustomMetrics=metrics, PublicEndpoint=public)
    board = json.loads(properties(stack, "Dashboard")["DashboardBody"])
    [status] = [widget for widget in board["widgets"] if widget["type"] == "custom"]
    assert status["properties"]["endpoint"] == "Function.Arn"
    example = json.loads((PROJECT / "events/status-widget.json").read_text())
    assert status["properties"]["params"].items() <= example.items()
    [listed] = [widget for widget in board["widgets"] if widget["type"] == "alarm"]
    assert {each.removesuffix(".Arn") for each in listed["properties"]["alarms"]} == set(alarms(stack))


def test_the_dashboard_shows_the_outcomes_the_expiry_and_the_latency(stack):
    shown = properties(stack, "Dashboard")["DashboardBody"]
    for metric in (
        "Refreshed",
        "CannotRefresh",
        "NewlyCannotRefresh",
        "Failed",
        "OutcomeUnknown",
        "Deferred",
        "Queued",
    ):
        assert f'"{metric}"' in shown
    assert '"SoonestAccessTokenExpirySeconds"' in shown
    assert '"ProviderLatency"' in shown


def test_the_dashboard_keeps_its_widgets_own_periods(stack):
    """By itself it makes them a function of the time range: a sum a day becomes another sum."""
    board = json.loads(properties(stack, "Dashboard")["DashboardBody"])
    assert board["periodOverride"] == "inherit"


@pytest.mark.parametrize("metrics", ["true", "false"])
def test_no_two_widgets_of_the_dashboard_overlap(metrics):
    board = json.loads(properties(render(CustomMetrics=metrics), "Dashboard")["DashboardBody"])
    taken = set()
    for widget in board["widgets"]:
        xs, ys = range(widget["x"], widget["x"] + widget["width"]), range(widget["y"], widget["y"] + widget["height"])
        cells = {(x, y) for x in xs for y in ys}
        assert not cells & taken, widget["properties"]["title"]
        assert max(xs) < 24, widget["properties"]["title"]
        taken |= cells


def test_the_runbooks_fixed_costs_are_their_arithmetic(stack):
    page = (PROJECT / "infra/README.md").read_text()
    rows = {
        what: [float(each.replace(",", "")) for each in numbers]
        for what, *numbers in re.findall(r"^\| ([^|]+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) USD \|$", page, re.MULTILINE)
    }
    for what, (number, each, month) in rows.items():
        assert month == round(number * each, 2), what
    billed = [each["Namespace"] for alarm in alarms(stack).values() for each in watched(alarm)]
    # Each of the format's metrics without a dimension, and one of them with the run's trigger.
    metrics = len(re.findall(r'\(\s*"[A-Z]\w+",\s*"(?:Count|Milliseconds|Seconds)"', code("aws/cloudwatch.rs"))) + 1
    sent, on_ours, board, on_awss = list(rows)[:4]
    # A metric is billed by the hour in which it is sent: a night's. https://aws.amazon.com/cloudwatch/pricing/
    assert sent == f"custom metrics: {metrics}, in 30 hours a month each"
    assert rows[sent][:2] == [metrics * 30, round(0.30 / 720, 6)]
    assert (on_ours, rows[on_ours][0]) == ("alarms on custom metrics", billed.count(NAMESPACE))
    assert (on_awss, rows[on_awss][0]) == ("alarms on AWS's metrics", len(billed) - billed.count(NAMESPACE))
    monitoring = sum(rows[what][2] for what in (sent, on_ours, board, on_awss))
    assert f"The first four, **{monitoring:.2f} USD**" in page
    # What is free in each account: 10 metrics for a whole month, 10 alarms and 3 dashboards.
    assert metrics * 30 < 10 * 720
    assert f"the monitoring costs **{(len(billed) - 10) * 0.10:.2f} USD**" in page
    without = sum(len(watched(alarm)) for alarm in alarms(render(CustomMetrics="false")).values())
    saved = rows[sent][2] + (len(billed) - without) * 0.10
    assert f"`CustomMetrics=false` saves {saved:.2f} USD at most" in page
    assert saved < 1
    assert "less than 1 USD a month" in source()["Parameters"]["CustomMetrics"]["Description"]


# The parameters


@pytest.mark.parametrize("name", sorted(source()["Parameters"]))
def test_every_parameter_says_what_it_is_and_has_bounds(name):
    parameter = source()["Parameters"][name]
    assert parameter["Description"].endswith(".")
    if parameter["Type"] == "Number":
        assert "AllowedValues" in parameter or {"MinValue", "MaxValue"} <= parameter.keys()
        values = parameter.get("AllowedValues") or range(parameter["MinValue"], parameter["MaxValue"] + 1)
        assert parameter["Default"] in values
    elif "AllowedValues" in parameter:
        assert parameter["Default"] in parameter["AllowedValues"]
    else:
        assert re.fullmatch(parameter["AllowedPattern"], parameter["Default"])
        assert parameter["ConstraintDescription"]
        for nonsense in ("two words", "?", "arn:aws:iam::1:x"):
            assert not re.fullmatch(parameter["AllowedPattern"], nonsense), nonsense


UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": DAY}


def allowed(parameter, value):
    return re.search(source()["Parameters"][parameter]["AllowedPattern"], value)


@pytest.mark.parametrize(
    ("parameter", "least", "most", "good"),
    [
        ("RefreshAhead", 1, 30 * DAY, ["48h", "720h", "30d", "5m", "90s", "29d", "700h", "711h"]),
        ("TikTokTimeout", 0.1, 60, ["10s", "100ms", "60s", "1m", "9999ms", "2s"]),
    ],
)
def test_a_duration_that_the_function_would_refuse_at_night_is_refused_at_once(parameter, least, most, good):
    for unit, seconds in UNITS.items():
        for number in [*range(1100), 9_999, 10_000, 43_201, 99_999, 999_999, 2_592_001, 9_999_999]:
            if allowed(parameter, f"{number}{unit}"):
                assert least <= number * seconds <= most, f"{number}{unit}"
    for value in good:
        assert allowed(parameter, value), value
    for value in ("", "48", "h", "-5m", "1.5h", "048h", "48 h", "48h0m", "48H", " 48h"):
        assert not allowed(parameter, value), value


def test_the_bounds_of_the_durations_are_the_codes_own():
    settings = code("settings.rs")
    assert "MAX_REFRESH_AHEAD: Duration = Duration::from_hours(30 * 24)" in settings
    assert "Duration::from_secs(1)..=MAX_REFRESH_AHEAD" in settings
    assert "Duration::from_millis(100)..=Duration::from_mins(1)" in settings


@pytest.mark.parametrize(
    ("parameter", "variable"),
    [
        ("MaxConcurrency", "MAX_CONCURRENCY"),
        ("RequestsPerSecondPerWorker", "MAX_REQUESTS_PER_SECOND"),
        ("FanOutAbove", "FAN_OUT_ABOVE"),
    ],
)
def test_a_number_that_the_function_would_refuse_at_night_is_refused_at_once(parameter, variable):
    settings = code("settings.rs")
    most = re.search(rf'"{variable}", \d+, (\w+)\)', settings)[1]
    # A number, or a constant's name.
    most = re.sub(r"[A-Z]\w+", lambda name: re.search(rf"const {name[0]}: \w+ = ([\d_]+);", settings)[1], most)
    most = int(most.replace("_", ""))
    assert all(allowed(parameter, str(number)) for number in (1, 2, 10, 99, 100, 399, most - 1, most))
    assert not any(allowed(parameter, str(number)) for number in (-1, 0, most + 1, most * 10))
    # CloudFormation's type Number would accept some of these.
    for value in ("", "1.5", "1e2", "+1", "007", " 1", "1 000", "1_000", "1,000"):
        assert not allowed(parameter, value), value


@pytest.mark.parametrize("parameter", ["TikTokAuthUrl", "TikTokApiUrl"])
def test_a_url_that_the_function_would_refuse_at_night_is_refused_at_once(parameter):
    for good in ("https://auth.tiktok-shops.com", "https://auth.example.com:8443/"):
        assert allowed(parameter, good), good
    for bad in (
        "http://auth.example.com",
        "https://",
        "https://a b.com",
        "https://user@auth.example.com",
        "https://auth.example.com?x=1",
        "https://auth.example.com:99999",
        "https://-.com",
        "https://auth.example.com/path",
    ):
        assert not allowed(parameter, bad), bad


def test_an_expression_that_runs_once_or_never_is_refused():
    for good in ("cron(0 2 * * ? *)", "rate(6 hours)", "rate(1 day)", "cron(0/30 * * * ? *)"):
        assert allowed("ScheduleExpression", good), good
    for bad in ("", "at(2026-11-23T02:00:00)", "0 2 * * *", "rate(0 hours)", "rate(6)", "cron()"):
        assert not allowed("ScheduleExpression", bad), bad


def test_every_parameter_is_used_and_shown_in_a_group():
    parameters = set(source()["Parameters"])
    groups = source()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert {name for group in groups for name in group["Parameters"]} == parameters
    rest = json.dumps({key: part for key, part in transformed().items() if key not in ("Parameters", "Metadata")})
    for name in parameters:
        assert f'"{name}"' in rest or f"${{{name}}}" in rest, name


def test_the_defaults_of_the_settings_are_the_codes_own():
    """But for the rate, which is shared among the workers."""
    given = properties(render(), "Function")["Environment"]["Variables"]
    settings = code("settings.rs")
    for name in ("MAX_CONCURRENCY", "FAN_OUT_ABOVE"):
        assert str(given[name]) == re.search(rf'"{name}", (\d+)', settings)[1]
    for name in ("TIKTOK_AUTH_URL", "TIKTOK_API_URL"):
        assert given[name] == re.search(rf'"{name}", "([^"]+)"', settings)[1]
    assert given["REFRESH_AHEAD"] == "48h"
    assert "from_hours(48)" in settings
    assert given["TIKTOK_TIMEOUT"] == "10s"
    assert "from_secs(10)" in settings
    assert given["LOG_LEVEL"] == "info"
    assert re.search(r'"METRICS_NAMESPACE"\).unwrap_or_else\(\|\| "(\w+)"', settings)[1] == NAMESPACE.split("/")[0]


# The configuration of `sam build` and `sam deploy`

CONFIG = tomllib.loads((PROJECT / "samconfig.toml").read_text())
ENVIRONMENTS = ["default", "dev", "prod"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_each_environment_is_complete_as_it_inherits_nothing(environment):
    assert list(CONFIG) == ["version", *ENVIRONMENTS]
    config = CONFIG[environment]
    assert config["build"]["parameters"] == {"template_file": "infra/template.yaml"}
    deploy = config["deploy"]["parameters"]
    assert set(deploy) == {"capabilities", "confirm_changeset", "resolve_s3"}
    assert deploy["resolve_s3"] is True
    # The second is for the transform of deletion policies.
    assert deploy["capabilities"] == ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
    assert deploy["confirm_changeset"] is (environment != "dev")


def as_sam_reads(overrides):
    return CfnParameterOverridesType().convert(tuple(overrides), None, None)


def test_an_example_of_a_parameter_arrives_whole():
    """SAM cuts a value off at a blank, unless it is quoted once more."""
    text = (PROJECT / "samconfig.toml").read_text()
    examples = [tomllib.loads(f"it = {each}")["it"] for each in re.findall(r'^ *# ("\w+=.*"),$', text, re.MULTILINE)]
    examples += re.findall(r"`\"(\w+='[^`]+')\"`", (PROJECT / "infra/README.md").read_text())
    assert len(examples) > 3
    for example in examples:
        name, value = example.split("=", 1)
        assert as_sam_reads([example]) == {name: value.strip("'")}, example
        assert allowed(name, value.strip("'")), example


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_each_environments_parameters_are_the_templates_and_for_both_commands(environment):
    given = as_sam_reads(CONFIG[environment]["global"]["parameters"]["parameter_overrides"])
    assert "Architecture" in given
    for name, value in given.items():
        parameter = source()["Parameters"][name]
        assert value in parameter.get("AllowedValues", [value])
        assert allowed(name, value) if "AllowedPattern" in parameter else True
    assert render(**given)


def test_environments_are_stacks_of_their_own_and_only_the_first_may_go_with_its_data():
    assert len({CONFIG[each]["global"]["parameters"]["stack_name"] for each in ENVIRONMENTS}) == 3
    gone = [each for each in ENVIRONMENTS if "RetainData=false" in str(CONFIG[each])]
    assert gone == ["dev"]


def test_whoever_follows_the_pages_gets_the_versions_that_the_checks_use():
    pinned = dict(re.findall(r"'([a-z-]+)==([\d.]+)'", (PROJECT / ".ci/tools").read_text()))
    for page in ("README.md", "README.vi.md", "infra/README.md"):
        named = re.findall(r"\b([a-z-]+)==([\d.]+)\b", (PROJECT / page).read_text())
        assert {name for name, _ in named} == {"aws-sam-cli", "cargo-lambda", "ziglang"}, page
        assert all(pinned[name] == version for name, version in named), page
        assert not re.search(r"pip install (?!\S+==)", (PROJECT / page).read_text().replace("`pip install`", "")), page


@pytest.mark.parametrize("workflow", sorted((PROJECT / ".github/workflows").glob("*.yml")), ids=lambda file: file.stem)
def test_every_action_is_pinned_by_its_commit(workflow):
    used = re.findall(r"uses: (\S+)", workflow.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action), action


@pytest.mark.parametrize("workflow", sorted((PROJECT / ".github/workflows").glob("*.yml")), ids=lambda file: file.stem)
def test_no_build_finds_the_workflows_token(workflow):
    """Build scripts of dependencies run there. A checkout leaves the token in the repository, unless told not to."""
    steps = [step for job in yaml_parse(workflow.read_text())["jobs"].values() for step in job["steps"]]
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    for step in checkouts:
        assert step["with"]["persist-credentials"] is False
