"""The packaged function under Lambda's Runtime Interface Emulator, with the table, the secret and the queues that the
template's properties make."""

import contextlib
import json
import os
import pathlib
import platform
import re
import socket
import subprocess
import sys
import time
import urllib.request

import boto3
import pytest
import samcli
from stack import PROJECT, REGION, of_type, properties, render, watched

PACKAGE = PROJECT / ".aws-sam/build/Function"
MACHINE = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
EMULATOR = pathlib.Path(samcli.__file__).parent / f"local/rapid/aws-lambda-rie-{MACHINE}"
STAND_INS = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target")) / "debug/examples/stand_ins"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}
PARAMETERS = {"FanOutAbove": "4", "EventBusName": "platform", "MetricsNamespace": "Shops"}
EVENTS = sorted((PROJECT / "events").glob("*.json"))
HOUR = 3600


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port):
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens on port {port}")


@contextlib.contextmanager
def running(*command, **options):
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def stand_ins():
    """DynamoDB and TikTok Shop."""
    with running(STAND_INS, stdout=subprocess.PIPE, text=True) as process:
        yield json.loads(process.stdout.readline())


@pytest.fixture(scope="module")
def aws():
    """Secrets Manager, SQS, EventBridge and KMS."""
    port = free_port()
    server = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(*server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        wait_for(port)
        yield f"http://127.0.0.1:{port}"


class Stack:
    """What the template makes, made by its own properties; and what `!Ref` and `!GetAtt` mean then."""

    def __init__(self, stand_ins, aws):
        def client(service, url):
            return boto3.client(
                service, endpoint_url=url, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
            )

        self.stand_ins, self.aws = stand_ins, aws
        self.resources = render(**PARAMETERS)
        self.dynamodb = client("dynamodb", stand_ins["dynamodb"])
        self.secrets, self.sqs = client("secretsmanager", aws), client("sqs", aws)
        key = client("kms", aws).create_key(Policy=json.dumps(properties(self.resources, "Key")["KeyPolicy"]))
        self.known = {"Key.Arn": key["KeyMetadata"]["Arn"], "Table": "Table"}

        # Recovery is switched on by a call of its own, which the embedded DynamoDB does not know.
        table = {k: v for k, v in self.made_from("Table").items() if k != "PointInTimeRecoverySpecification"}
        sse = table.pop("SSESpecification")
        sse = {"Enabled": sse["SSEEnabled"], "SSEType": sse["SSEType"], "KMSMasterKeyId": sse["KMSMasterKeyId"]}
        self.dynamodb.create_table(TableName="Table", SSESpecification=sse, **table)

        secret = self.secrets.create_secret(Name="Secret", **self.made_from("Secret"))
        self.known["Secret"] = secret["ARN"]
        for queue in ("DeadLetters", "MissedRuns", "WorkQueue"):
            attributes = {
                name: json.dumps(value) if isinstance(value, dict) else str(value)
                for name, value in self.made_from(queue).items()
            }
            url = self.sqs.create_queue(QueueName=queue, Attributes=attributes)["QueueUrl"]
            arn = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            self.known |= {queue: url, f"{queue}.Arn": arn}
        client("events", aws).create_event_bus(Name=PARAMETERS["EventBusName"])

    def made_from(self, name):
        def resolved(value):
            if isinstance(value, dict):
                return {key: resolved(each) for key, each in value.items()}
            if isinstance(value, list):
                return [resolved(each) for each in value]
            return self.known.get(value, value)

        return resolved(properties(self.resources, name))

    def variables(self):
        return {k: str(v) for k, v in self.made_from("Function")["Environment"]["Variables"].items()}

    def fill(self):
        """An integration for each seller, all due but the last."""
        now = int(time.time())
        for n, seller in enumerate(self.stand_ins["sellers"]):
            due = n + 1 < len(self.stand_ins["sellers"])
            item = {
                "team_id": {"S": str(n % 2 + 1)},
                "integration_id": {"S": str(101 + n)},
                "status": {"S": "active"},
                "access_token_expires_at": {"N": str(now + (HOUR if due else 100 * HOUR))},
                "refresh_token_expires_at": {"N": str(now + 5000 * HOUR)},
                **{key: {"S": value} for key, value in seller.items()},
            }
            self.dynamodb.put_item(TableName="Table", Item=item)

    def integrations(self):
        return self.dynamodb.scan(TableName="Table", ConsistentRead=True)["Items"]


@pytest.fixture(scope="module")
def stack(stand_ins, aws):
    return Stack(stand_ins, aws)


class Function:
    def __init__(self, port, log):
        self.url = f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations"
        self.log = log

    def invoke(self, event):
        request = urllib.request.Request(self.url, data=json.dumps(event).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def lines(self):
        """What the function wrote: JSON lines, among the emulator's own."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def metrics(self):
        """Every namespace, name and set of dimensions that was written."""
        written = set()
        for line in self.lines():
            for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
                for dimensions in directive["Dimensions"]:
                    values = tuple((name, line[name]) for name in dimensions)
                    written |= {(directive["Namespace"], each["Name"], values) for each in directive["Metrics"]}
        return written


@pytest.fixture(scope="module")
def function(stack, tmp_path_factory):
    port, api = free_port(), free_port()
    log = tmp_path_factory.mktemp("function") / "log"
    environment = {
        **CREDENTIALS,
        **stack.variables(),
        "PATH": os.environ["PATH"],
        "AWS_ENDPOINT_URL": stack.aws,
        "AWS_ENDPOINT_URL_DYNAMODB": stack.stand_ins["dynamodb"],
        "TIKTOK_AUTH_URL": stack.stand_ins["tiktok"],
        "TIKTOK_API_URL": stack.stand_ins["tiktok"],
        "LOG_LEVEL": "trace",
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(properties(stack.resources, "Function")["Timeout"]),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(properties(stack.resources, "Function")["MemorySize"]),
    }
    # Without addresses it would listen on every interface.
    addresses = [
        "--runtime-interface-emulator-address",
        f"127.0.0.1:{port}",
        "--runtime-api-address",
        f"127.0.0.1:{api}",
    ]
    command = [EMULATOR, *addresses, PACKAGE / properties(stack.resources, "Function")["Handler"]]
    with log.open("w") as out, running(*command, env=environment, stdout=out, stderr=out):
        wait_for(port)
        yield Function(port, log)


def event(name):
    return json.loads((PROJECT / "events" / f"{name}.json").read_text())


# In this order: each test goes on from the stack that the last one left.


def test_a_new_stacks_secret_has_no_value_and_the_first_run_says_so(function, stack):
    stack.fill()
    answer = function.invoke(event("scheduler"))
    assert answer["errorType"] == "CredentialsUnavailable"
    assert "has no value" in answer["errorMessage"]
    app = {**stack.stand_ins["app"], "service_id": "7495"}
    stack.secrets.put_secret_value(SecretId="Secret", SecretString=json.dumps(app))


def test_the_scheduler_has_the_due_tokens_refreshed_by_way_of_the_work_queue(function, stack):
    before = {row["integration_id"]["S"]: row for row in stack.integrations()}
    counts = function.invoke(event("scheduler"))["counts"]
    assert (counts["examined"], counts["due"], counts["queued"]) == (10, 9, 9)

    taken = stack.sqs.receive_message(QueueUrl=stack.known["WorkQueue"], MaxNumberOfMessages=10)["Messages"]
    source = {"eventSource": "aws:sqs", "eventSourceARN": stack.known["WorkQueue.Arn"], "awsRegion": REGION}
    records = [{"messageId": each["MessageId"], "receiptHandle": "r", "body": each["Body"], **source} for each in taken]
    assert function.invoke({"Records": records}) == {"batchItemFailures": []}

    changed = [row for row in stack.integrations() if row != before[row["integration_id"]["S"]]]
    assert len(changed) == 9
    for row in changed:
        old = before[row["integration_id"]["S"]]
        assert row["refresh_token"] != old["refresh_token"]
        assert row["access_token"] != old["access_token"]
        assert "lock_owner" not in row


@pytest.mark.parametrize("file", EVENTS, ids=lambda file: file.stem)
def test_each_example_event_is_answered(function, file):
    answer = function.invoke(json.loads(file.read_text()))
    if file.stem == "connect":
        # An example cannot hold a real code: it gets as far as TikTok, which says so.
        assert answer["errorType"] == "CodeRefused"
        return
    assert "errorType" not in answer, answer
    if file.stem.startswith("status") and file.stem != "status":
        assert isinstance(answer, str)
        assert answer
    else:
        assert answer["action"] == json.loads(file.read_text()).get("action", "refresh")


def test_an_event_that_is_not_known_is_refused_by_name(function, stack):
    answer = function.invoke({"team": 1})
    assert answer["errorType"] == "BadEvent"
    assert "team" in answer["errorMessage"]
    # The alarm on errors leaves it out, by this one line.
    pattern = properties(stack.resources, "BadEvents")["FilterPattern"]
    level, start = re.fullmatch(r'\{ \$\.level = "(\w+)" && \$\.message = "([^"]+)\*" \}', pattern).groups()
    lines = [line for line in function.lines() if line.get("level") == level]
    assert len([line for line in lines if line["message"].startswith(start)]) == 1


def test_every_alarm_and_the_dashboard_watch_metrics_that_were_written(function, stack):
    # The latency is written where a call was made.
    answer = function.invoke({"team_id": "1", "integration_id": "101", "force": True})
    assert answer["counts"]["refreshed"] == 1
    written = function.metrics()
    shown = set()
    for alarm in of_type(stack.resources, "AWS::CloudWatch::Alarm").values():
        for metric in watched(alarm["Properties"]):
            # What Lambda and SQS write, and what CloudWatch counts in the log.
            if metric["Namespace"] == PARAMETERS["MetricsNamespace"] and metric["MetricName"] != "BadEvents":
                dimensions = tuple((each["Name"], each["Value"]) for each in metric["Dimensions"])
                shown.add((metric["Namespace"], metric["MetricName"], dimensions))
    assert len(shown) == 6
    board = json.loads(properties(stack.resources, "Dashboard")["DashboardBody"])
    for widget in board["widgets"]:
        for namespace, name in re.findall(
            r'\["([^"/]+)", "(\w+)"', json.dumps(widget["properties"].get("metrics", [])).replace('"."', '"Shops"')
        ):
            shown.add((namespace, name, ()))
    assert len(shown) == 15
    assert shown <= written, shown - written


def test_nothing_that_was_written_holds_a_secret(function, stack):
    log = function.log.read_text()
    assert "completed successfully" in log
    secrets = [stack.stand_ins["app"]["app_secret"]]
    for row in [*stack.stand_ins["sellers"], *stack.integrations()]:
        for name in ("access_token", "refresh_token"):
            secrets.append(row[name] if isinstance(row[name], str) else row[name]["S"])
    assert not [secret for secret in secrets if secret in log]
