"""The commands of the runbook, held against the AWS CLI's own models. They are not run: nobody has an account here."""

import json
import re
import shlex

import botocore.session
import jmespath
import pytest
from botocore import xform_name
from stack import PROJECT, transformed

PAGE = (PROJECT / "infra/README.md").read_text()
# Of the command itself, not of one of its operations.
GLOBAL = {
    "output",
    "query",
    "region",
    "profile",
    "endpoint-url",
    "cli-binary-format",
    "cli-read-timeout",
    "cli-input-json",
}
# The command's own operations, which no API has.
COMMANDS_OWN = {
    ("logs", "tail"): {"since", "filter-pattern"},
    ("s3", "cp"): set(),
    ("cloudformation", "deploy"): {"stack-name", "template-file", "capabilities", "parameter-overrides"},
}
# A shell's operators end a command.
END = {"|", "&&", ";", "||", "&"}


def code():
    """What a reader would copy: whole blocks, and commands in a line of text."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^ *```.*?^ *```", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    return blocks + re.findall(r"`(aws [^`]+)`", rest)


def commands():
    for block in code():
        # Each substitution and function body is a command of its own.
        text = block.replace("\\\n", " ").replace("$(", "\n").replace("{ aws", "\naws")
        text = re.sub(r"\)(?= |$)|; *\}", "\n", text, flags=re.MULTILINE)
        for line in text.splitlines():
            words = shlex.split(line, comments=True) if line.strip().startswith("aws ") else []
            ends = [n for n, word in enumerate(words) if word in END or word.endswith(";") or word[0] == ">"]
            if words:
                yield tuple(words[1 : ends[0] if ends else None])


COMMANDS = sorted(set(commands()))


def options(command):
    """The options with their values; several values are one list."""
    found, name = {}, None
    for word in command[2:]:
        if word.startswith("--"):
            name = word[2:]
            found[name] = []
        elif name:
            found[name].append(word)
    return found


def test_the_commands_are_found():
    assert len(COMMANDS) > 25
    assert len([each for each in COMMANDS if each[:2] == ("lambda", "invoke")]) > 5


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_operation_and_each_option_exists(command):
    service, operation = command[:2]
    for query in options(command).get("query", []):
        jmespath.compile(query)
    given = set(options(command)) - GLOBAL
    if (service, operation) in COMMANDS_OWN:
        assert given <= COMMANDS_OWN[service, operation]
        return
    model = botocore.session.get_session().get_service_model(service)
    names = {xform_name(each, "-"): each for each in model.operation_names}
    if operation == "wait":
        waiters = botocore.session.get_session().get_waiter_model(service)
        waits = {xform_name(each, "-"): waiters.get_waiter(each).operation for each in waiters.waiter_names}
        operation = xform_name(waits[command[2]], "-")
    members = model.operation_model(names[operation]).input_shape.members
    known = {xform_name(each, "-"): each for each in members}
    for name in given:
        is_switch = name not in known and name.startswith("no-")
        member = known[name.removeprefix("no-") if is_switch else name]
        assert members[member].type_name == "boolean" or not is_switch, name


INVOCATIONS = [each for each in COMMANDS if each[:2] == ("lambda", "invoke")]


@pytest.mark.parametrize("command", INVOCATIONS, ids=" ".join)
def test_each_invocation_is_understood_and_waited_for(command):
    given = options(command)
    # Without it, the command's second version takes the payload for base64.
    assert given["cli-binary-format"] == ["raw-in-base64-out"]
    payload = given["payload"][0]
    if payload.startswith("file://"):
        payload = (PROJECT / payload.removeprefix("file://")).read_text()
    if payload.startswith("fileb://"):
        return
    event = json.loads(payload)
    assert not {"auth_code", "integrations"} & event.keys(), "a secret comes from a file, by fileb://"
    # Else the command gives up after a minute, and invokes the function again.
    is_short = "integration_id" in event or given.get("invocation-type") == ["Event"]
    assert is_short or given["cli-read-timeout"] == ["0"]


def test_every_output_that_the_runbook_takes_exists():
    taken = set(re.findall(r"\$\(output (\w+)\)", PAGE))
    assert len(taken) > 8
    assert taken <= set(transformed()["Outputs"])
    assigned = set(re.findall(r"\b([A-Z_]+)=\$\(output", PAGE)) | {"STACK"}
    # What the reader knows: a bucket, an application's role, and a network.
    of_the_reader = {"BUCKET", "ROLE", "PUBLIC_SUBNET", "PRIVATE_ROUTE_TABLE", "VPC"}
    assert set(re.findall(r'"\$([A-Z_]+)', "".join(code()))) - of_the_reader <= assigned


def test_every_resource_that_the_runbook_names_exists():
    named = set(re.findall(r"--logical-resource-id (\w+)", PAGE))
    assert named
    assert named <= set(transformed()["Resources"])


def test_every_parameter_that_the_runbook_passes_exists():
    passed = set(re.findall(r"\b([A-Z][a-z]+[A-Z]\w+)=(?!=)", PAGE))
    assert len(passed) > 3
    of_a_release = {"CodeBucket", "CodeKey"}
    assert passed - of_a_release <= set(transformed()["Parameters"])
