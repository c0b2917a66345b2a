"""What a release has for those who do not build with SAM: the template as plain CloudFormation."""

import json
import re
import subprocess
import sys

import pytest
from stack import PROJECT, render, source

# CloudFormation's limit for a template that does not come from a bucket.
# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
LIMIT = 51_200


@pytest.fixture(scope="module")
def text():
    return subprocess.run([sys.executable, PROJECT / ".ci/plain-template"], check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def plain(text):
    return json.loads(text)


def test_no_transform_is_left_and_it_fits_into_a_request(plain, text):
    assert "Transform" not in plain
    assert not [name for name, each in plain["Resources"].items() if each["Type"].startswith("AWS::Serverless")]
    assert len(text) < LIMIT


def test_the_linter_accepts_it(text, tmp_path):
    file = tmp_path / "template.json"
    file.write_bytes(text)
    subprocess.run(["cfn-lint", file], check=True)


def test_it_has_the_same_resources_with_the_package_from_a_bucket(plain):
    every = set(render(PublicEndpoint="true", AlarmEmail="a@example.com")) | set(render(CustomMetrics="false"))
    every |= set(render(SubnetIds="subnet-1a", SecurityGroupIds="sg-3c"))
    assert set(plain["Resources"]) == every
    for function in ("Function", "PublicFunction"):
        code = plain["Resources"][function]["Properties"]["Code"]
        assert code == {"S3Bucket": {"Ref": "CodeBucket"}, "S3Key": {"Ref": "CodeKey"}}
    assert set(plain["Parameters"]) == set(source()["Parameters"]) - {"RetainData"} | {"CodeBucket", "CodeKey"}
    groups = plain["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert {name for group in groups for name in group["Parameters"]} == set(plain["Parameters"])


def test_its_data_always_stays(plain):
    assert "RetainsData" not in json.dumps(plain)
    for name, expected in render().items():
        for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
            assert plain["Resources"][name].get(policy) == expected.get(policy), name
    assert plain["Resources"]["Table"]["Properties"]["DeletionProtectionEnabled"] is True


def test_the_runbook_names_what_a_release_consists_of():
    script = (PROJECT / ".ci/release").read_text()
    [architectures] = re.findall(r"for architecture in ([^;]+);", script)
    zips = {f"tiktok-token-refresh-{each}.zip" for each in architectures.split()}
    assert set(source()["Parameters"]["Architecture"]["AllowedValues"]) == set(architectures.split())
    page = (PROJECT / "infra/README.md").read_text()
    for file in (*zips, "template.json", "SHA256SUMS"):
        assert f"`{file}`" in page, file
