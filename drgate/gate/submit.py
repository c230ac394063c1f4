"""A judged model put where the policy wants it, once the gate would accept it.

    submitted = submit(Path(), Path("reports/release-3"), model=Path("best_model.pth"))
    submitted.written       # staged: the model, its certificates, predictions and looks

Whether it would is the gate's own answer, on the staged files with these added to them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from drgate import limits
from drgate.certificate import trust
from drgate.certificate.chain import read_chain
from drgate.certificate.statement import Certificate, read_certificate
from drgate.checklist import Checklist
from drgate.errors import NotCertified, PolicyError, RepositoryError, UsageError
from drgate.evaluation import Evaluation, Subject
from drgate.files import entries, read_limited, sha256_file
from drgate.gate.adopt import KnownSet, stated
from drgate.gate.findings import ADOPTION, GateReport
from drgate.gate.gate import gate
from drgate.gate.placing import placed, reading, refuse_links, same_as
from drgate.gate.policy import (
    FILE,
    GatedTestSet,
    Policy,
    find_policy,
    folder_of,
    how_to_replace,
    load_rules,
    parse_policy,
)
from drgate.gate.repository import DVC, Content, Entry, Repository, Tree, open_repository
from drgate.given import PREDICTIONS, folder_in
from drgate.line_ends import read_as_written
from drgate.looks import LOOKS

_POLICY = "a policy; write one with drgate init"


@dataclass(frozen=True, slots=True)
class Submitted:
    """What `submit` did. written: paths that are staged and were not. replaced: those that were there otherwise.

    model: its path from the root. statement: digest of what was certified. base: the branch that the gate compared
    with; "" where there is none yet. adopts: whether the base branch has no policy, so that the first merge is past the
    gate. branch: the checked out one.
    """

    written: tuple[str, ...]
    replaced: tuple[str, ...]
    model: str
    statement: str
    headline: str
    base: str
    adopts: bool
    branch: str
    remote: bool


def submit(
    folder: Path,
    report: Path,
    *,
    model: Path | None = None,
    looks: Path | None = None,
    test_set: str | None = None,
    base_ref: str | None = None,
    now: datetime | None = None,
) -> Submitted:
    """Put what an evaluation is about into the repository around `folder`, staged; or change nothing.

    report: the evaluation's folder. model: its file, or the folder of its files; by default it is in the repository
    already, also as a pointer. looks: the chain; by default the policy's, or the one that `evaluate` wrote. test_set:
    the name under which a policy that states no test set is to state this one. base_ref: as for `gate`; by default what
    `origin` has, else the last commit.

    Raises NotCertified where the verdict keeps the gate closed, DrgateError for anything else that does.
    """
    certificates = _certificates(report)
    statement = certificates[0][1].statement
    evaluation = statement.evaluation
    if not statement.of_model or evaluation.data.manifest_digest is None:
        raise UsageError(f"{report} is about a table of predictions, not about a model; evaluate the model itself.")
    with open_repository(folder) as repository:
        tree, files = repository.staged(), dict[str, bytes | Path]()
        policy = _policy(repository, tree, evaluation, test_set, files)
        rules = load_rules(tree, policy)
        gated = _gated(policy, evaluation, report)
        _refuse_other_checklist(rules.checklist, policy, evaluation, gated, report)
        signed = [one for _, one in certificates]
        roles = trust.roles(statement, signed, rules.trusted, rules.revocations)
        if not policy.is_met_by(roles):
            role = next(role for role in policy.required_roles if role not in roles)
            raise UsageError(
                f"{report} is signed by {', '.join(sorted(roles)) or 'no key that the policy trusts'}; the policy "
                f"requires {policy.signers} of {', '.join(policy.required_roles)}. Sign it: drgate sign "
                f"{report / 'certificate.json'} --role {role} --key KEY"
            )
        path = _model(repository, tree, policy, evaluation, model, files)
        place = f"{policy.certificates}/{PurePosixPath(path).stem}-{statement.digest[7:15]}"
        for _, one in certificates:
            files[f"{place}/{one.key_id[:8]}.certificate.json"] = one.to_bytes()
        for name in (PREDICTIONS, "predictions.scored.json"):
            wanted = (
                policy.require_predictions
                or evaluation.model.scoring is None
                or evaluation.model.scoring.by != "this run"
            )
            if wanted and (report / name).is_file():
                files[f"{place}/{name}"] = report / name
        files[gated.looks] = _chain(repository.root / gated.looks, looks, evaluation, gated)
        for name in files:
            refuse_links(repository, name)
        other = [name for name, content in files.items() if not same_as(repository.root / name, content)]
        replaced = tuple(one for one in other if (repository.root / one).exists())
        unstaged = {*other, *repository.unstaged([*files], []), *(name for name in files if not tree.has(name))}
        written = tuple(name for name in files if name in unstaged)
        _refuse_dirty(repository, tree, replaced, policy)
        base, branch, remote = repository.target()
        base = base_ref or base
        with placed(repository, files) as index, reading(index):
            answer = gate(folder, base_ref=base or repository.empty_commit(), now=now or datetime.now(UTC))
            _refuse_closed(answer, evaluation, gated, place, report)
        return Submitted(
            written,
            tuple(one for one in replaced if one != gated.looks),
            path,
            statement.digest,
            evaluation.headline,
            base,
            answer.adopts,
            branch,
            remote,
        )


def _scored_here(evaluation: Evaluation) -> bool:
    return evaluation.model.scoring is not None and evaluation.model.scoring.by == "this run"


def _certificates(report: Path) -> list[tuple[Path, Certificate]]:
    """The certificates in an evaluation's folder, of one statement."""
    folder = folder_in(report)
    if folder is None:
        raise UsageError(f"{report} is not the folder of an evaluation, which holds evaluation.json (drgate evaluate).")
    found: list[tuple[Path, Certificate]] = []
    for path in entries(folder, UsageError):
        if path.name == "certificate.json" or path.name.endswith(".certificate.json"):
            read = read_certificate(path)
            if isinstance(read, Certificate):
                found.append((path, read))
    if not found:
        raise UsageError(f"{report} holds no certificate: it is not signed. Evaluate again with --key KEY.")
    other = next((path for path, one in found if one.statement.data != found[0][1].statement.data), None)
    if other is not None:
        raise UsageError(f"{other} and {found[0][0].name} are of two evaluations; remove the one that is not meant.")
    return found


def _policy(
    repository: Repository, tree: Tree, evaluation: Evaluation, name: str | None, files: dict[str, bytes | Path]
) -> Policy:
    """The staged policy; one without a test set gets this one, where the caller names it."""
    path = find_policy(tree, None)
    if path is None:
        raise PolicyError(f"There is no policy in {tree.name}; expected {_POLICY}, and git add it.")
    data = tree.read(path, limit=limits.TOML_BYTES, what=_POLICY)
    digest = evaluation.data.manifest_digest or ""
    if path == FILE and b"[[gate.test_sets]]" not in data:
        if name is None:
            raise PolicyError(
                f"{path} states no test set. If models are to be judged on {evaluation.data.name} ({digest}), say so: "
                "add --test-set NAME."
            )
        data += stated(KnownSet(name, digest)).encode()
        files[path] = data
    elif name is not None:
        raise UsageError(f"{path} states its test sets already; leave out --test-set, or change them there.")
    return parse_policy(data, path, tree.name)


def _gated(policy: Policy, evaluation: Evaluation, report: Path) -> GatedTestSet:
    for one in policy.test_sets:
        if one.manifest_digest == evaluation.data.manifest_digest:
            return one
    replace = how_to_replace(policy.test_sets[0].name, f"--report {shlex.quote(str(report))}")
    raise UsageError(
        f"{report} is of the test set {evaluation.data.name} ({evaluation.data.manifest_digest}), and the policy asks "
        f"for {', '.join(one.name for one in policy.test_sets)}. Evaluate on that one. If this one takes the place of "
        f"one that is used up: {replace}. If models must pass on both, add it to [[gate.test_sets]]."
    )


def _refuse_other_checklist(
    checklist: Checklist, policy: Policy, evaluation: Evaluation, gated: GatedTestSet, report: Path
) -> None:
    spec = evaluation.spec
    if spec.digest != checklist.digest:
        raise UsageError(
            f"{report} is by the checklist {spec.name} version {spec.version}, and the policy asks for "
            f"{checklist.name} version {checklist.version}. Evaluate again: --spec {policy.spec} --looks {gated.looks}"
        )


def _model(
    repository: Repository,
    tree: Tree,
    policy: Policy,
    evaluation: Evaluation,
    given: Path | None,
    files: dict[str, bytes | Path],
) -> str:
    """The model's path from the root. files: receives the model's files that are not staged yet."""
    first, *others = evaluation.model.files
    there = _staged(tree, policy, first)
    if there is None:
        if given is None:
            raise UsageError(
                f"The model {first.name} is not among the staged files that the policy guards "
                f"({', '.join(policy.models)}); say where it is: --model FILE."
            )
        source = given / first.name if given.is_dir() else given
        if not source.is_file() or sha256_file(source) != first.sha256:
            raise UsageError(f"{source} is not the model that was judged, {first.name} (SHA-256 {first.sha256}).")
        inside = repository.path_of(source)
        folders = [*(folder_of(pattern) for pattern in policy.models), ""]
        places = [*([inside] if inside else []), *(f"{folder}/{first.name}".lstrip("/") for folder in folders)]
        there = next((path for path in places if policy.guards(path)), None)
        if there is None:
            raise UsageError(
                f"{first.name} matches no pattern of the policy ({', '.join(policy.models)}). Add one to models in the "
                "policy, such as "
                f"{folder_of(policy.models[0]) or 'models'}/*{source.suffix}."
            )
        files[there] = source
    for other in others:
        path = str(PurePosixPath(there).with_name(other.name))
        source = (repository.root / there).with_name(other.name)
        if given is not None:
            source = (given if given.is_dir() else given.parent) / other.name
        staged = [tree.entries[one] for one in (path, f"{path}{DVC}") if tree.has(one)]
        if any(_is(content, other) for one in staged for name, content in _contents(tree, one).items() if name == path):
            continue
        if not source.is_file() or sha256_file(source) != other.sha256:
            raise UsageError(f"{source} is not the file of the model that was judged (SHA-256 {other.sha256}).")
        files[path] = source
    return there


def _staged(tree: Tree, policy: Policy, subject: Subject) -> str | None:
    """The path of a guarded file that is this one: the file itself, or a pointer of Git LFS or DVC to it."""
    for path, entry in tree.entries.items():
        if policy.guards(path.removesuffix(DVC)):
            for name, content in _contents(tree, entry).items():
                if policy.guards(name) and _is(content, subject):
                    return name
    return None


def _contents(tree: Tree, entry: Entry) -> dict[str, Content]:
    """What a staged file is, or the files that it points to, by path; nothing where it cannot be read."""
    try:
        return tree.tracked_by_dvc(entry) if entry.path.endswith(DVC) else {entry.path: tree.content(entry)}
    except RepositoryError:  # a finding of the gate names it
        return {}


def _is(content: Content, subject: Subject) -> bool:
    same = content.sha256 == subject.sha256 if content.sha256 else content.md5 == subject.md5
    return same and content.size == subject.size


def _chain(own: Path, given: Path | None, evaluation: Evaluation, gated: GatedTestSet) -> bytes:
    """The chain of looks that is to be committed: the policy's own, or the longer one that goes on from it."""
    if evaluation.leaks:
        raise NotCertified(
            f"{evaluation.headline} Its audit found a leak, so there is no look to submit; take other images.",
            exit_code=evaluation.exit_code,
        )
    line = evaluation.look.line or ""
    data = b""
    for path in [own, *([given] if given else sorted(LOOKS.glob("*.jsonl")))]:
        if not path.is_file():
            continue
        found = read_limited(path, limits.CHAIN_BYTES, "a chain of looks", UsageError)
        if any(entry["digest"] == line for entry in read_as_written(read_chain, found, str(path))):
            data = found
            break
    if not data:
        raise UsageError(
            f"The look of this evaluation is in no chain that is known here; name the one that drgate evaluate wrote: "
            f"--looks FILE. (With evaluate --looks {gated.looks} it is in its place at once.)"
        )
    held = read_limited(own, limits.CHAIN_BYTES, "a chain of looks", UsageError) if own.is_file() else b""
    if data.splitlines()[: len(held.splitlines())] != held.splitlines():
        raise UsageError(
            f"{path} does not continue {gated.looks}: each holds looks that the other lacks. Evaluate again with "
            f"--looks {gated.looks}."
        )
    return data


def _refuse_dirty(repository: Repository, tree: Tree, replaced: Sequence[str], policy: Policy) -> None:
    """What is not staged is not judged, and what Git does not have could not be had again."""
    own = [FILE, policy.spec, *(path for paths in policy.trusted_keys.values() for path in paths)]
    if changed := [path for path in repository.unstaged(own, []) if path not in replaced]:
        raise UsageError(f"{', '.join(changed)} differs from what is staged; git add or restore it first.")
    looks = [one.looks for one in policy.test_sets]
    if lost := [path for path in repository.unstaged(replaced, []) if path not in looks]:
        raise UsageError(
            f"{lost[0]} would be replaced, and Git does not have what is there now; git add it first, or move it away."
        )


def _refuse_closed(answer: GateReport, evaluation: Evaluation, gated: GatedTestSet, place: str, report: Path) -> None:
    closing = [one for one in answer.findings if one.closes and one.id != ADOPTION]
    if not closing:
        return
    sentences = [f"{one.group}, {one.check}: {one.reason}".replace(f"{place}/", f"{report}/") for one in closing]
    more = f" And {len(closing) - 3} more." if len(closing) > 3 else ""
    message = f"The gate would stay closed, so nothing was put there. {' '.join(sentences[:3])}{more}"
    if evaluation.look.used_up:
        message += (
            f" No further model can pass on {gated.name}. State a fresh one in its place, which the required roles "
            f"must waive: {how_to_replace(gated.name)}"
        )
    own = {one.id for one in closing if one.id.startswith(("criterion:", "verdict:"))}
    if own and evaluation.exit_code:
        raise NotCertified(f"{evaluation.headline} {message}", exit_code=evaluation.exit_code)
    raise UsageError(message)
