"""The policy of a repository: what it takes, what it refuses, and what is weaker than what."""

from __future__ import annotations

import itertools
import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drgate.certificate.keys import generate_key, load_public_key
from drgate.certificate.trust import parse_revocations
from drgate.checklist import parse_yaml
from drgate.errors import PolicyError
from drgate.gate.policy import Policy, RuleChange, Rules, compare, matches, parse_policy, part_digest
from tests.support.repositories import POLICY, TEST_SET

WHOLE = (POLICY % TEST_SET).encode()
CHECKLIST = parse_yaml(b"name: one\nversion: 1\ncriteria: [{id: accuracy, at_least: 0.9}]\n", "one")


def policy(**changes: object) -> Policy:
    """The whole policy of the tests, with keys changed."""
    plain = parse_policy(WHOLE, "drgate.toml").model_dump()
    return Policy.model_validate({**plain, **changes})


class TestReading:
    def test_documented_policy_is_valid(self):
        """What docs/gate.md shows: a whole policy, and in a second block all other settings of [gate]."""
        text = (Path(__file__).parents[2] / "docs/gate.md").read_text().replace("sha256:...", f"sha256:{'0' * 64}")
        first, second = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
        assert parse_policy(first.encode(), "drgate.toml").required_count is None
        gate, mark, test_sets = first.partition("[[gate.test_sets]]")
        manifest = re.search(r'`(manifest = ".*?")`', text)
        assert manifest is not None
        whole = f"{gate}{second}{mark}{test_sets}{manifest[1]}\n"
        found = parse_policy(whole.encode(), "drgate.toml")
        assert {*Policy.model_fields} == found.model_fields_set
        assert found.test_sets[0].manifest == "testsets/site-a-2026.csv"

    def test_both_places(self):
        """drgate.toml and pyproject.toml say the same."""
        shared = WHOLE.replace(b"[gate]", b"[tool.drgate.gate]").replace(b"[[gate.", b"[[tool.drgate.gate.")
        assert parse_policy(shared, "pyproject.toml") == parse_policy(WHOLE, "drgate.toml")
        with pytest.raises(PolicyError, match="holds no policy"):
            parse_policy(WHOLE, "pyproject.toml")

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            (b"max_age_days", b"max_age_day", r"max_age_day: this key does not exist"),
            (b"365", b"0", r"max_age_days"),
            (b"365", b"1.5", r"max_age_days"),
            (b"365", b'"365"', r"max_age_days"),
            (b'["models/*.pth"]', b"[]", r"models"),
            (b'["models/*.pth"]', b'["../*.pth"]', r"models\.0: '\.\./\*\.pth' is not a path inside the repository"),
            (b'["models/*.pth"]', b'["/models/*.pth"]', r"not a path inside"),
            (b'["models/*.pth"]', b'["' + b"*" * 1001 + b'"]', r"models\.0: .* longer than 1000 characters"),
            (b'["models/*.pth"]', b'["a\\nb"]', r"'a\\\\nb' is not a path inside"),
            (b'["clinical"]', b'["clinica"]', r"the role 'clinica' is required but has no trusted key"),
            (b'["clinical"]', b'["clinical", "clinical"]', r"required_roles lists a role twice"),
            (b'["clinical"]', b'["clinical"]\nrequired_count = 2', r"required_count is larger"),
            (b'["clinical"]', b"[]", r"required_roles"),
            (b"365", b'365\nscorers = ["clinica"]', r"the role 'clinica' may score but has no trusted key"),
            (b"365", b'365\nallow = ["insufficient"]', r"allow\.0: .*'observed' or 'scored_elsewhere'"),
            (b'["keys/clinical.pub"]', b"[]", r"trusted_keys\.clinical"),
            (b"sha256:a", b"sha256:A", r"test_sets\.0\.manifest_digest"),
            (b"[[gate.test_sets]]", b"[[gate.test_set]]", r"test_set: this key does not exist"),
            (b'looks = "looks/site-a.jsonl"', b"", r"test_sets\.0\.looks"),
            (b'name = "site-a"', b'name = "a b"', r"test_sets\.0\.name"),
            (b"365", b"365\nmax_age_days = 3", r"not valid TOML"),
        ],
    )
    def test_what_is_refused(self, old, new, reason):
        """One sentence that names the key."""
        assert old in WHOLE
        with pytest.raises(PolicyError, match=reason) as refused:
            parse_policy(WHOLE.replace(old, new, 1), "drgate.toml")
        assert "\n" not in str(refused.value)

    def test_test_set_twice(self):
        """Under one name, or under one digest."""
        again = WHOLE[WHOLE.index(b"[[") :]
        for name, digest in ((b"site-b", b"a"), (b"site-a", b"b")):
            other = again.replace(b'"site-a"', b'"' + name + b'"').replace(b"a" * 64, digest * 64)
            with pytest.raises(PolicyError, match="two test sets share a name or a manifest_digest"):
                parse_policy(WHOLE + other, "drgate.toml")


PATHS = sorted(
    "/".join([*folders, name])
    for depth in (0, 1, 2)
    for folders in itertools.product(("a", "b"), repeat=depth)
    for name in ("ab", "ba", "abb")
)


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an empty file of each of the paths."""
    root = tmp_path_factory.mktemp("forest")
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run(["git", "add", "--all"], cwd=root, check=True)
    return root


class TestPatterns:
    @settings(max_examples=60)
    @given(st.from_regex(r"(\*\*/)?[ab?]{0,2}(\*[ab?]{0,2}|[ab?]\?)(/(\*\*/)?\*?[ab?]{1,3}){0,2}", fullmatch=True))
    def test_match_as_in_git(self, forest, pattern):
        """Git's own patterns (`:(glob)`) pick the same of all short paths."""
        command = ["git", "ls-files", "-z", "--", f":(top,glob){pattern}"]
        found = subprocess.run(command, cwd=forest, check=True, capture_output=True, text=True)
        assert {path for path in PATHS if matches(pattern, path)} == {path for path in found.stdout.split("\0") if path}

    def test_time_does_not_explode(self):
        """Whoever proposes a change writes the names, and on adoption the patterns."""
        began = time.process_time()
        for pattern in ("**/" * 300 + "x", "*a" * 400 + "b", "**a" * 300 + "b", "?" * 900):
            assert not matches(pattern, "a" * 4000)
            assert not matches(pattern, "a/" * 2000)
        assert time.process_time() - began < 10

    def test_folders_that_are_guarded(self):
        """Up to the first wildcard; the root is none."""
        guarded = policy(models=["models/dr/*.pth", "nets/v?/*.onnx", "best.pth", "**/*.ort"])
        held = [
            path for path in ("models/dr/a/b", "models/x", "nets/notes", "README.md", "a/b.ort") if guarded.holds(path)
        ]
        assert held == ["models/dr/a/b", "nets/notes"]
        inside = policy(models=["models/*.pth"], certificates="models/certificates", spec="models/spec.yaml")
        assert not inside.holds("models/certificates/a.json")
        assert not inside.holds("models/spec.yaml")

    def test_rest_is_literal(self):
        """What a regular expression or a shell would take for more."""
        assert matches("models/[a].p+h", "models/[a].p+h")
        assert not matches("models/[a].pth", "models/a.pth")
        assert not matches("models/*.pth", "models/a.pth\n")
        assert matches("models/*", "models/a\nb")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder = tmp_path_factory.mktemp("keys")
    return [load_public_key(generate_key(folder / str(n), None)[1]) for n in range(3)]


def changes(base: Policy, head: Policy, keys: list, **more: object) -> list[RuleChange]:
    """What changes between two policies over the same files."""

    def rules(policy: Policy) -> Rules:
        trusted = {role: (key,) for role, key in zip(sorted(policy.trusted_keys), keys, strict=False)}
        return Rules(policy, CHECKLIST, trusted, parse_revocations(policy.revoked, "revoked"), {})

    return list(compare(rules(base), rules(head)))


class TestWeaker:
    def test_same_is_no_change(self, keys):
        """And has one digest."""
        assert changes(policy(), policy(), keys) == []

    def test_roles_by_brute_force(self, keys):
        """Weaker exactly where somebody could satisfy the new demand and not the old one."""
        every = ("clinical", "engineering", "regulatory")
        trusted = {role: [f"keys/{role}.pub"] for role in every}
        demands = [
            policy(trusted_keys=trusted, required_roles=list(roles), required_count=count)
            for n in (1, 2, 3)
            for roles in itertools.combinations(every, n)
            for count in range(1, n + 1)
        ]
        signers = [set(some) for n in range(4) for some in itertools.combinations(every, n)]
        for old, new in itertools.product(demands, repeat=2):
            found = changes(old, new, keys)
            weaker = any(new.is_met_by(some) and not old.is_met_by(some) for some in signers)
            assert any(change.kind == "weaker" for change in found) == weaker, (old, new)
            assert bool(found) == (({*old.required_roles}, old.signers) != ({*new.required_roles}, new.signers))

    @pytest.mark.parametrize(
        ("old", "new", "kind"),
        [
            ({}, {"max_age_days": 366}, "weaker"),
            ({}, {"max_age_days": 364}, "stronger"),
            ({}, {"require_predictions": True}, "stronger"),
            ({"require_predictions": True}, {"require_predictions": False}, "weaker"),
            ({}, {"allow_md5_pointers": True}, "weaker"),
            ({"allow_md5_pointers": True}, {}, "stronger"),
            ({}, {"models": ["models/*.pth", "a"]}, "stronger"),
            ({}, {"models": ["models/*"]}, "weaker"),
            ({}, {"not_models": ["a"]}, "weaker"),
            ({"not_models": ["a"]}, {}, "stronger"),
            ({}, {"allow": ["observed"]}, "weaker"),
            ({"allow": ["observed"]}, {"allow": ["scored_elsewhere"]}, "weaker"),
            ({"allow": ["scored_elsewhere", "observed"]}, {"allow": ["observed"]}, "stronger"),
            ({"scorers": ["clinical"]}, {"scorers": ["engineering", "clinical"]}, "weaker"),
            ({"scorers": ["clinical"]}, {}, "stronger"),
            ({}, {"certificates": "elsewhere"}, "neutral"),
            ({}, {"waivers": "elsewhere"}, "neutral"),
            ({}, {"spec": "elsewhere.yaml"}, None),
            ({}, {"revoked": [f"{'e' * 64} lost"]}, "stronger"),
            ({"revoked": [f"{'e' * 64} lost"]}, {}, "weaker"),
            ({"revoked": [f"{'e' * 64} lost"]}, {"revoked": [f"{'f' * 64} lost"]}, "weaker"),
            ({"revoked": [f"{'e' * 64} lost"]}, {"revoked": [f"{'e' * 64} stolen"]}, None),
        ],
    )
    def test_each_key(self, keys, old, new, kind):
        """What lets more through is weaker; where a thing lies is neither."""
        assert [change.kind for change in changes(policy(**old), policy(**new), keys)] == ([kind] if kind else [])

    def test_each_change_has_the_digests_that_a_waiver_names(self, keys):
        """Those of the part before and after, whatever else changes."""
        (change,) = changes(policy(), policy(max_age_days=366, certificates="certificates"), keys)
        assert change.was != change.now
        rules = Rules(policy(max_age_days=366), CHECKLIST, {}, parse_revocations([], ""), {})
        assert part_digest(rules, "policy:max_age_days") == change.now
        assert part_digest(rules, "policy:nothing") == part_digest(rules, "spec:nothing") == ""
