"""A repository made ready for the gate: policy, checklist, keys, folders, and the workflow that runs the gate.

adopted = adopt(Path(), keys=[("clinical", Path("keys/clinical.pub"))], spec="medical-grade", test_set=known)
adopted.written         # the files that were written and staged, by their path from the root
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, Literal

from drgate import limits
from drgate.certificate.keys import MAX_KEY_BYTES, PublicKey, parse_public_key
from drgate.certificate.trust import refuse_shared_keys
from drgate.checklist import parse_yaml, read_checklist, shipped
from drgate.errors import ChecklistError, PolicyError, UsageError, visible
from drgate.files import parse_toml, read_limited
from drgate.gate.placing import placed, refuse_links, same_as
from drgate.gate.policy import (
    FILE,
    PYPROJECT,
    GatedTestSet,
    find_policy,
    folder_of,
    gating_checklist,
    parse_policy,
)
from drgate.gate.repository import Repository, open_repository
from drgate.mapping import PLAIN, ColumnMap

KEPT_OUT: Final = ("*.pem", "*.key", "names.csv", ".looks.lock", "/reports/")
"""Lines of .gitignore: private keys, patient keys, what leads from published names back, and evaluations' folders."""
EVIDENCE: Final = ("certificates", "keys", "looks", "waivers")
_ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_SOURCE: Final = re.compile(r"([A-Za-z0-9][\w.-]*(?:/[\w.-]+)+)@([0-9a-f]{40}|[0-9a-f]{64})")

Forge = Literal["github", "gitlab"]


@dataclass(frozen=True, slots=True)
class KnownSet:
    """A test set as a policy names it. name: any; the policy's is made of it. digest: of the manifest, with images."""

    name: str
    digest: str

    @property
    def plain(self) -> str:
        """The name in letters that a policy allows."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-._")[:100] or "test-set"


@dataclass(frozen=True, slots=True)
class Adopted:
    """What `adopt` did. written: paths that are new or changed; with them the keys are staged. allowed: how many models
    one test set may judge, by the checklist. looks: the chain of the test set; None where none is stated.
    """

    root: Path
    written: tuple[str, ...]
    spec: str
    allowed: int
    looks: str | None
    keys: tuple[tuple[str, str], ...]
    workflow: str | None
    notes: tuple[str, ...]


def adopt(
    folder: Path,
    *,
    keys: Sequence[tuple[str, Path]],
    spec: str,
    models: Sequence[str],
    test_set: KnownSet | None = None,
    looks: int | None = None,
    forge: Forge | None = None,
    source: str | None = None,
    force: bool = False,
) -> Adopted:
    """Write and stage what the repository around `folder` needs for the gate; all of it, or nothing.

    keys: role and public key file. spec: a checklist that ships, or a file. models: patterns. looks: how many models
    one test set may judge, if not what the checklist says. source: REPOSITORY@COMMIT of drgate on the forge. force:
    replace files that differ.

    Raises DrgateError where something is missing or invalid, and for files that are there already and differ.
    """
    if not keys:
        raise UsageError(
            "A policy needs a key that it trusts. Make one with drgate keygen --out keys/clinical, and name it: "
            "--trusted-key clinical=keys/clinical.pub."
        )
    with open_repository(folder) as repository:
        tree = repository.staged()
        if (existing := find_policy(tree, None)) == PYPROJECT:
            raise UsageError(f"{PYPROJECT} holds a policy already; change that one, or remove its [tool.drgate.gate].")
        files: dict[str, bytes] = {}
        named = _keys(repository, keys, files)
        checklist, allowed = _checklist(repository, spec, looks, files)
        files[FILE] = _policy(models, checklist, named, test_set)
        parse_policy(_policy(models, checklist, named, test_set or KnownSet("none", f"sha256:{'0' * 64}")), FILE)
        folders = [name for name in (folder_of(pattern) for pattern in models) if name]
        for name in dict.fromkeys([*folders, "certificates", "looks"]):
            if not any(path.startswith(f"{name}/") for path in (*tree.entries, *files)):
                files[f"{name}/.gitkeep"] = b""
        lines = [f"{name}/** -text" for name in dict.fromkeys([*EVIDENCE, *folders])]
        for name, more in ((".gitattributes", lines), (".gitignore", KEPT_OUT)):
            files[name] = _with_lines(repository.root / name, more)
        notes = [] if forge is None else _workflow(repository, forge, source, files)
        for path in files:
            refuse_links(repository, path)
        changed = [path for path, data in files.items() if not same_as(repository.root / path, data)]
        appended = (".gitattributes", ".gitignore")
        differ = [path for path in changed if (repository.root / path).exists() and path not in appended]
        if differ and not force:
            what = f"{existing} is a policy already" if existing in differ else f"{differ[0]} is there already"
            others = f" ({', '.join(differ[1:])} too)" if differ[1:] else ""
            keys_that_differ = _differing(repository.root / FILE, files[FILE]) if FILE in differ else ""
            raise UsageError(
                f"{visible(what)} and differs from what would be written{visible(others)}; nothing was written."
                f"{visible(keys_that_differ)} Change it by hand, or give the same command with --force, which replaces "
                "it whole. On a branch that the gate guards, each rule that becomes weaker needs a waiver."
            )
        new = [path for path in files if path in changed or not tree.has(path)]
        with placed(repository, files):
            pass
        chain = None if test_set is None else f"looks/{test_set.plain}.jsonl"
        workflow = next((path for path in files if path.endswith("drgate-gate.yml")), None)
        return Adopted(repository.root, tuple(new), checklist, allowed, chain, tuple(named), workflow, tuple(notes))


def _differing(file: Path, wanted: bytes) -> str:
    """A sentence about the keys of a policy that another one would have otherwise; "" where it cannot be read."""
    try:
        held = parse_toml(read_limited(file, limits.TOML_BYTES, "a policy", PolicyError), FILE, "a policy", PolicyError)
    except PolicyError:
        return ""
    has, new = held.get("gate"), parse_toml(wanted, FILE, "a policy", PolicyError)["gate"]
    if not isinstance(has, dict):
        return ""
    keys = [key for key in dict.fromkeys([*has, *new]) if has.get(key) != new.get(key)]
    shown = [
        f"{key} (there {json.dumps(has[key])}, now {json.dumps(new[key])})"
        if key in has and key in new and key != "test_sets"
        else key
        for key in keys
    ]
    return f" It differs in {', '.join(shown)}." if shown else ""


@dataclass(frozen=True, slots=True)
class Exchanged:
    """A test set that took the place of another. roles: that must waive it, each with the path of a public key.

    base: the branch to compare with; "" where there is no commit yet, and nothing to waive.
    """

    spec: str
    looks: str
    waiver: str
    roles: tuple[tuple[str, str], ...]
    base: str


def exchange(folder: Path, old: str, new: KnownSet) -> Exchanged:
    """State `new` in place of the test set `old` in the policy of the repository around `folder`, and stage it.

    The gate takes that for a weaker rule, because nothing shows that the new set is as good as the old one.

    Raises DrgateError where there is no such test set, and where something else of the policy would change.
    """
    with open_repository(folder) as repository:
        tree = repository.staged()
        path = find_policy(tree, None)
        if path is None:
            raise PolicyError(f"There is no policy in {tree.name}; write one with drgate init, without --replaces.")
        data = tree.read(path, limit=limits.TOML_BYTES, what="a policy")
        policy = parse_policy(data, path, tree.name)
        names = [one.name for one in policy.test_sets]
        if old not in names:
            raise UsageError(f"{path} states no test set {old!r}; it states {', '.join(names)}.")
        if same := next((one.name for one in policy.test_sets if one.manifest_digest == new.digest), None):
            raise UsageError(f"{new.name} has the very images and labels of the test set {same} that {path} states.")
        if repository.unstaged([path], []):
            raise UsageError(f"{path} differs from what is staged; git add or restore it first.")
        wanted = [
            GatedTestSet(name=new.plain, manifest_digest=new.digest, looks=f"looks/{new.plain}.jsonl")
            if one.name == old
            else one
            for one in policy.test_sets
        ]
        text = _exchanged(data.decode(), old, new).encode()
        try:
            sound = parse_policy(text, path) == policy.model_copy(update={"test_sets": wanted})
        except PolicyError as problem:
            raise PolicyError(f"{problem} Rename the new test set, or state it by hand.") from problem
        if not sound:
            lines = " ".join(stated(new).split("\n")[2:]).strip()
            raise PolicyError(f"{path} is written so that its test set {old} cannot be replaced here; state: {lines}")
        with placed(repository, {path: text}):
            pass
        roles = tuple((role, policy.trusted_keys[role][0]) for role in policy.required_roles[: policy.signers])
        base, _, _ = repository.target()
        return Exchanged(policy.spec, f"looks/{new.plain}.jsonl", f"policy:test_sets.{old}", roles, base)


def _exchanged(text: str, old: str, new: KnownSet) -> str:
    """The text of a policy, with one test set in place of another; the rest stays as it was written."""
    tables = re.split(r"(?m)^(?=\[)", text)
    for i, table in enumerate(tables):
        head, *lines = table.splitlines(keepends=True) or [""]
        if head.strip().endswith("gate.test_sets]]") and re.search(
            rf"""(?m)^\s*name\s*=\s*["']{re.escape(old)}["']""", table
        ):
            kept = [line for line in lines if not re.match(r"\s*(name|manifest_digest|looks|manifest)\s*=", line)]
            tables[i] = "".join([head, *stated(new).splitlines(keepends=True)[2:], *kept])
    return "".join(tables)


def stated(test_set: KnownSet) -> str:
    """The part of a policy that names a test set."""
    return (
        f"\n[[gate.test_sets]]\nname = {json.dumps(test_set.plain)}\nmanifest_digest = {json.dumps(test_set.digest)}\n"
        f"looks = {json.dumps(f'looks/{test_set.plain}.jsonl')}\n"
    )


def _policy(models: Sequence[str], spec: str, keys: Sequence[tuple[str, str]], test_set: KnownSet | None) -> bytes:
    roles: dict[str, list[str]] = {}
    for role, path in keys:
        roles.setdefault(role, []).append(path)
    trusted = ", ".join(f"{role} = {json.dumps(paths)}" for role, paths in roles.items())
    text = (
        "# What a model must meet before it is merged. The one on the base branch decides (docs/gate.md of drgate).\n"
        f"[gate]\nmodels = {json.dumps([*models])}\nspec = {json.dumps(spec)}\ntrusted_keys = {{ {trusted} }}\n"
        f"required_roles = {json.dumps([*roles])}\n"
    )
    unknown = "\n# The gate is closed until a test set is stated: drgate submit REPORT --test-set NAME\n"
    return (text + (unknown if test_set is None else stated(test_set))).encode()


def _keys(repository: Repository, keys: Iterable[tuple[str, Path]], files: dict[str, bytes]) -> list[tuple[str, str]]:
    """Role and path from the root of each key; those from elsewhere are copied into keys/."""
    found: list[tuple[str, str]] = []
    trusted: dict[str, list[PublicKey]] = {}
    for role, path in keys:
        if not _ROLE.fullmatch(role):
            raise UsageError(
                f"{role!r} is not the name of a role; expected small letters and digits, such as clinical."
            )
        data = read_limited(path, MAX_KEY_BYTES, "a public key, as drgate keygen writes NAME.pub", UsageError)
        trusted.setdefault(role, []).append(parse_public_key(data, str(path)))
        inside = repository.path_of(path)
        name = inside or f"keys/{path.name}"
        if files.setdefault(name, data) != data:
            raise UsageError(f"Two keys would be {name}; rename one of them.")
        found.append((role, name))
    refuse_shared_keys(trusted)
    return found


def _checklist(repository: Repository, spec: str, looks: int | None, files: dict[str, bytes]) -> tuple[str, int]:
    """The path of the checklist from the root, and its looks; one that ships, or from elsewhere, goes into checklists/.

    looks: as in `adopt`; with another number it is another checklist, so that its name says so.
    """
    if spec in shipped():
        with resources.as_file(resources.files("thresholds") / f"{spec}.yaml") as file:
            data = read_limited(file, limits.YAML_BYTES, "a checklist", ChecklistError)
        # The line for editors names a schema beside the shipped file, which is not there in this repository.
        data = b"".join(line for line in data.splitlines(keepends=True) if b"yaml-language-server" not in line)
        path = f"checklists/{spec}.yaml"
    else:
        read_checklist(spec)  # says what a name was meant to be
        data = read_limited(Path(spec), limits.YAML_BYTES, "a checklist", ChecklistError)
        path = repository.path_of(Path(spec)) or f"checklists/{Path(spec).name}"
    checklist = parse_yaml(data, spec)
    if looks not in (None, checklist.looks):
        name = f"{checklist.name}-{looks}-look{'' if looks == 1 else 's'}"
        data, named = re.subn(rb"(?m)^name:.*$", f"name: {name}".encode(), data)
        data, declared = re.subn(rb"(?m)^looks:.*$", f"looks: {looks}".encode(), data)
        path = f"checklists/{name}.yaml"
        checklist = parse_yaml(data, path)
        if (named, declared, checklist.name, checklist.looks) != (1, 1, name, looks):
            raise UsageError(f"{spec} is written so that --looks cannot change it; write looks: {looks} in it by hand.")
    gating_checklist(data, path)
    files[path] = data
    return path, checklist.looks


def _with_lines(file: Path, lines: Iterable[str]) -> bytes:
    """A file of Git's with these lines at its end, where they are missing."""
    held = read_limited(file, limits.LIST_BYTES, "a list of lines", UsageError) if file.is_file() else b""
    present = {line.strip() for line in held.decode("utf-8", "surrogateescape").splitlines()}
    missing = "".join(f"{line}\n" for line in lines if line not in present)
    return held + (b"\n" if missing and held and not held.endswith(b"\n") else b"") + missing.encode()


def _workflow(repository: Repository, forge: Forge, source: str | None, files: dict[str, bytes]) -> list[str]:
    """The workflow of a forge; sentences about what is left to do for it."""
    text = (resources.files("drgate.gate") / "workflows" / f"{forge}.yml").read_text(encoding="utf-8")
    path = {"github": ".github/workflows/drgate-gate.yml", "gitlab": ".gitlab/drgate-gate.yml"}[forge]
    notes = []
    if source is None:
        notes.append(
            f"In {path}, replace `YOUR-GROUP/drgate` and the zeros with the repository that holds drgate on your forge "
            "and the full id of a commit of it (or write it again with --drgate YOUR-GROUP/drgate@COMMIT --force)."
        )
    elif not (given := _SOURCE.fullmatch(source)):
        raise UsageError(
            f"--drgate is {source!r}; expected the repository that holds drgate and the full id of a commit, such as "
            "YOUR-GROUP/drgate@0123456789abcdef0123456789abcdef01234567. A tag or branch can be moved."
        )
    else:
        text = re.sub("# Replace .*\n", "", text).replace("YOUR-GROUP/drgate", given[1]).replace("0" * 40, given[2])
    files[path] = text.encode()
    if forge == "gitlab":
        include = f"include: [{{local: {path}}}]"
        if not (repository.root / ".gitlab-ci.yml").exists():
            files[".gitlab-ci.yml"] = f"{include}\n".encode()
        elif not same_as(repository.root / ".gitlab-ci.yml", f"{include}\n".encode()):
            notes.append(f"Add to .gitlab-ci.yml: {include}")
    return notes


def known_set(report: Path) -> KnownSet:
    """The test set of an evaluation, by its folder. Raises UsageError where it does not name one with its images."""
    from drgate.certificate.statement import read_certificate
    from drgate.given import certificate_in

    data = read_certificate(certificate_in(report)).statement.evaluation.data
    if data.manifest_digest is None:
        raise UsageError(f"{report} is of a table whose images are not known, so the gate could not recognise the set.")
    return KnownSet(data.name, data.manifest_digest)


def set_of(data: Path, split: str, columns: ColumnMap = PLAIN) -> KnownSet:
    """The test set in a manifest: of its images in a split, or all images if it has no splits."""
    from drgate.manifest import load_manifest

    manifest = load_manifest(data, columns=columns)
    if not manifest.table["split"].isna().all():
        manifest = manifest.select(split)
    return KnownSet(manifest.name, manifest.digest())
