"""The template as CloudFormation gets it: transformed by SAM, then with parameters and conditions resolved."""

import copy
import functools
import os
import pathlib

from cloud_radar.cf.unit import Template
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

PROJECT = pathlib.Path(__file__).parents[2]
REGION = "eu-central-1"
ACCOUNT = "123456789012"
STACK = "tiktok-token-refresh"
# SAM wants to know a partition, and takes it from the region.
os.environ["AWS_DEFAULT_REGION"] = REGION


@functools.cache
def source():
    """The template as it is written."""
    return yaml_parse((PROJECT / "infra/template.yaml").read_text())


class NoManagedPolicies:
    """SAM asks the account for its managed policies. None is to be used: their resource is always "*"."""

    def load(self):
        return {}


@functools.cache
def transformed():
    template = copy.deepcopy(source())
    # What `sam package` puts in the code's place.
    template["Resources"]["Function"]["Properties"]["CodeUri"] = "s3://bucket/package.zip"
    return transform(template, {}, NoManagedPolicies())


@functools.cache
def rendered(**parameters):
    Template.AccountId, Template.StackName = ACCOUNT, STACK
    return Template(copy.deepcopy(transformed())).create_stack(parameters, region=REGION).data


def render(**parameters):
    """The stack's resources with these parameters. `!Ref X` becomes "X", and `!GetAtt X.Arn` becomes "X.Arn"."""
    return rendered(**parameters)["Resources"]


def outputs(**parameters):
    return {name: each["Value"] for name, each in rendered(**parameters)["Outputs"].items()}


def of_type(resources, kind):
    return {name: each for name, each in resources.items() if each["Type"] == kind}


def properties(resources, name):
    return resources[name]["Properties"]


def statements(resources, name):
    """Every statement of a role's own policies or of a managed policy, with lists in place of single values."""
    found = []
    for policy in properties(resources, name).get("Policies", [properties(resources, name)]):
        for statement in policy["PolicyDocument"]["Statement"]:
            # What `AWS::NoValue` leaves behind.
            if not statement:
                continue
            listed = dict(statement)
            for key in ("Action", "Resource"):
                value = statement[key]
                listed[key] = value if isinstance(value, list) else [value]
            found.append(listed)
    return found


def watched(alarm):
    """Each metric that an alarm is billed for: by itself, or in an expression."""
    if "Metrics" not in alarm:
        return [{**alarm, "Dimensions": alarm.get("Dimensions", [])}]
    queries = [each["MetricStat"] for each in alarm["Metrics"] if "MetricStat" in each]
    return [{"Dimensions": [], **q["Metric"], "Period": q["Period"], "Statistic": q["Stat"]} for q in queries]
