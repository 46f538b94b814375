"""Write the contracts of ``tests/contracts/data`` from Microsoft's own generated clients.

pip download --no-deps --dest FOLDER azure-ai-ml==1.35.2    and the other wheels of :data:`SOURCES`
python -m tests.contracts.extract FOLDER

What is kept are facts: operations (method, path, api-version, bodies, success codes, headers), and the types
that these reach, one line each. A field is ``"type flag …"``: the type is a JSON type, ``duration``,
``time``, ``any``, the name of a type or enumeration, ``[type]`` for a list or ``{type}`` for a dictionary by
names; flags are ``required``, ``readOnly`` and ``createOnly``. Prose is left out.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
ML = r"/providers/Microsoft\.MachineLearningServices"
ENDPOINTS = rf".*{ML}/workspaces/[^/]+/onlineEndpoints(/.*)?"


@dataclass(frozen=True)
class Source:
    """One generated client, and which of its operations are kept (``METHOD path``, an expression)."""

    wheel: str
    module: str
    kept: tuple[str, ...]
    left: str = "$^"  # types that are not followed


SOURCES = {
    "arm_ml_2025-12-01": Source(
        "azure_ai_ml-1.35.2",
        "arm_ml_service",
        (
            rf"\w+ {ENDPOINTS}",
            rf"GET .*{ML}/locations/[^/]+/(usages|vmSizes)",
            rf"GET .*{ML}/workspaces/[^/]+(/computes/[^/]+)?",
            rf"DELETE .*{ML}/workspaces/[^/]+/models/[^/]+",
        ),
        left="AmlCompute|ComputeInstance|DataFactory|DataLakeAnalytics|Databricks|HDInsight|SynapseSpark|VirtualMachine",
    ),
    "arm_ml_2022-05-01": Source(
        "azure_ai_ml-1.26.5", "v2022_05_01", (rf"(GET|PUT|PATCH|DELETE) .*{ML}/workspaces(/{{\w+}})?",)
    ),
    "arm_ml_2022-02-01-preview": Source("azure_ai_ml-1.26.5", "v2022_02_01_preview", (rf"\w+ {ENDPOINTS}",)),
    "runhistory_1.0": Source(
        "azure_ai_ml-1.35.2",
        "runhistory",
        (
            r"(GET|PATCH) .*/(experimentids|experiments)/[^/]+/runs/[^/]+(/token)?",
            r"\w+ .*/(experimentids|experiments)/[^/]+/runs/[^/]+/artifacts(/.*)?",
        ),
    ),
}
SIMPLE = {
    "str": "string",
    "bytes": "string",
    "bytearray": "string",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "bool": "boolean",
    "Any": "any",
    "object": "any",
    "JSON": "any",
    "rfc3339": "time",
    "iso-8601": "time",
    "datetime.datetime": "time",
    "datetime.date": "time",
    "datetime.timedelta": "duration",
}


@dataclass
class Client:
    """One generated client, read: its operations and all its types."""

    operations: list[dict[str, Any]] = field(default_factory=list)
    types: dict[str, dict[str, Any]] = field(default_factory=dict)
    enums: dict[str, list[str]] = field(default_factory=dict)


def read(wheel: Path, module: str) -> Client:
    """Read a client from its wheel."""
    found = Client()
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if re.search(rf"/_restclient/{module}/", name)]
        texts = {
            name.split(f"/{module}/")[1]: archive.read(name).decode() for name in names if "/aio/" not in name
        }
    new = "models/_enums.py" in texts
    enums = (
        "models/_enums.py" if new else next(n for n in texts if re.fullmatch(r"models/_azure\w+_enums.py", n))
    )
    models = "models/_models.py" if new else "models/_models_py3.py"
    operations = (
        ["operations/_operations.py"] if new else [n for n in texts if re.search(r"operations/_\w+_op", n)]
    )
    for node in classes(texts[enums]):
        found.enums[node.name] = [
            str(each.value.value)
            for each in node.body
            if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant)
        ]
    for node in classes(texts[models]):
        found.types[node.name] = kept = _new_type(node) if new else _old_type(node)
        if inner := kept.pop("inner", None):
            kept["fields"]["properties"] = f"{node.name}Properties"
            found.types[f"{node.name}Properties"] = {"base": [], "fields": inner}
    for name in sorted(operations):
        found.operations += _operations(texts[name])
    return found


def classes(text: str) -> Iterator[ast.ClassDef]:
    """Yield the classes of a module."""
    return (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))


def _new_type(node: ast.ClassDef) -> dict[str, Any]:
    """Return a type as the newer generator writes it: ``name: type = rest_field(visibility=[…])``."""
    kept: dict[str, Any] = {
        "base": [base.id for base in node.bases if isinstance(base, ast.Name)],
        "fields": {},
    }
    for word in node.keywords:
        if word.arg == "discriminator" and isinstance(word.value, ast.Constant):
            kept["kind"] = word.value.value
    for each in node.body:
        if not (isinstance(each, ast.AnnAssign) and isinstance(each.value, ast.Call)):
            continue
        called, words = ast.unparse(each.value.func), {w.arg: w.value for w in each.value.keywords}
        name = ast.literal_eval(words["name"]) if "name" in words else ast.unparse(each.target)
        annotation = ast.unparse(each.annotation).replace("'", "").replace('"', "")
        sees = set(ast.literal_eval(words["visibility"])) if "visibility" in words else {"create", "update"}
        flags = [] if annotation.startswith("Optional[") else ["required"]
        flags += ["readOnly"] if sees == {"read"} else []
        flags += ["createOnly"] if "create" in sees and "update" not in sees else []
        if called == "rest_discriminator":
            kept["discriminator"] = name
        kept["fields"][name] = " ".join([_typed(annotation), *flags])
    return kept


def _old_type(node: ast.ClassDef) -> dict[str, Any]:
    """Return a type as the older generator writes it, in tables of its class."""
    tables: dict[str, Any] = {"_attribute_map": {}, "_validation": {}, "_subtype_map": {}}
    for each in node.body:
        if isinstance(each, ast.Assign) and (name := ast.unparse(each.targets[0])) in tables:
            tables[name] = ast.literal_eval(each.value)
    prose = ast.get_docstring(node) or ""
    enums = dict(re.findall(r":vartype (\w+): str or\s+~[\w.]+\.(\w+)", prose))
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    kept: dict[str, Any] = {"base": bases, "fields": {}, "inner": {}}
    for name, how in tables["_attribute_map"].items():
        rules = tables["_validation"].get(name, {})
        flags = [f for f, word in (("required", "required"), ("readOnly", "readonly")) if rules.get(word)]
        written = enums.get(name, how["type"]) if how["type"] == "str" else how["type"]
        *outer, key = how["key"].split(".")  # a generated client flattens ``properties``
        (kept["inner"] if outer else kept["fields"])[key] = " ".join([_typed(written), *flags])
    for attribute, kinds in tables["_subtype_map"].items():
        kept["discriminator"] = tables["_attribute_map"][attribute]["key"]
        kept["kinds"] = kinds
    return kept


def _typed(written: str) -> str:
    """Return a type as the contracts write it."""
    text = written.strip().replace("_models.", "").replace("_types.", "")
    for wrapper in ("Optional", "Union"):
        if text.startswith(f"{wrapper}["):
            parts = [
                part
                for part in _parts(text[len(wrapper) + 1 : -1])
                if part not in ("str", "JSON", "IO[bytes]")
            ]
            return _typed(parts[0]) if parts else "string"
    if text.startswith("Literal["):
        return "string"
    if match := re.fullmatch(r"[Ll]ist\[(.*)\]|\[(.*)\]", text):
        return f"[{_typed(match[1] or match[2])}]"
    if match := re.fullmatch(r"[Dd]ict\[str, (.*)\]|\{(.*)\}", text):
        return f"{{{_typed(match[1] or match[2])}}}"
    return SIMPLE.get(text, text)


def _parts(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _operations(text: str) -> Iterator[dict[str, Any]]:
    """Yield the operations of a module; what a request is made of is found by the name of its builder."""
    tree, lines = ast.parse(text), text.splitlines()

    def source_of(node: ast.FunctionDef) -> str:
        return "\n".join(lines[node.lineno - 1 : node.end_lineno])

    builders = {n.name: source_of(n) for n in tree.body if isinstance(n, ast.FunctionDef)}
    for node in classes(text):
        bodies: dict[str, str] = {}
        for each in node.body:
            if isinstance(each, ast.FunctionDef) and not any(map(_overloads, each.decorator_list)):
                name = re.sub(r"^_|^begin_|_initial$", "", re.sub(r"_initial$", "", each.name))
                bodies[name] = bodies.get(name, "") + source_of(each)
        for source in bodies.values():
            builder = re.search(r"= (build_\w+)\(", source)
            codes = re.search(r"status_code not in \[([\d, ]+)\]", source)
            if builder is None or codes is None:
                continue
            made = builders[builder[1]]
            url = re.search(
                r"""(?:url = |url = kwargs\.pop\("template_url", )\(?\s*["'](/?[^"']+)["']""", made
            )
            method = re.search(r'method="(\w+)"', made)
            version = re.search(r"""api[-_]version["']?,? ?(?:= ?)?["'](\d[^"']+)["']""", made)
            assert url is not None
            assert method is not None
            body = re.search(
                r"_serialize\.body\(\w+, '(.+?)'\)|body: ((?:Optional\[)?(?:Union\[)?_models\.\w+)", source
            )
            answer = re.search(
                r"LROPoller\[_models\.(\w+)\]|ItemPaged\[[\"']_models\.(\w+)[\"']\]|"
                r"(?<!failsafe)_deserialize\((?:_models\.)?['\"]?(\w+)['\"]?, (?:response\.j|pipeline_r)",
                source,
            )
            shown = next((g for g in answer.groups() if g), "") if answer else ""
            if answer and answer[2]:
                shown = f"page {shown}"
            yield {
                "method": method[1],
                "path": url[1],
                "version": version[1] if version else "",
                "body": _typed(re.sub(r".*_models\.", "", body[1] or body[2])) if body else "",
                "answer": SIMPLE.get(shown, shown),
                "success": sorted({int(code) for code in codes[1].split(",")}),
                "headers": _headers(source),
            }


def _overloads(decorator: ast.expr) -> bool:
    return ast.unparse(decorator) == "overload"


def _headers(source: str) -> dict[str, list[str]]:
    """Return the headers that an operation reads from its answer, by status or for ``any``."""
    found: dict[str, list[str]] = {}
    status = "any"
    for code, header in re.findall(
        r"if response\.status_code == (\d+)|response_headers\[['\"]([\w-]+)", source
    ):
        status = code or status
        if header:
            found.setdefault(status, []).append(header)
    return {status: sorted(set(names)) for status, names in found.items()}


def selected(client: Client, source: Source) -> dict[str, Any]:
    """Return the operations that are kept and the types that they reach."""
    wanted = [re.compile(each) for each in source.kept]
    operations = [
        o for o in client.operations if any(w.fullmatch(f"{o['method']} {o['path']}") for w in wanted)
    ]
    types: dict[str, Any] = {}
    enums: dict[str, Any] = {}
    left = [re.sub(r"^page ", "", o[key]) for o in operations for key in ("body", "answer")]
    while left:
        for name in re.findall(r"\w+", left.pop()):
            if name in client.enums:
                enums[name] = client.enums[name]
            if name not in client.types or name in types:
                continue
            entry = types[name] = whole(client, name)
            kinds = entry.get("kinds", {})
            for kind in [kind for kind, sub in kinds.items() if re.fullmatch(source.left, sub)]:
                del kinds[kind]
            left += [each.split()[0] for each in entry["fields"].values()]
            left += list(entry.get("kinds", {}).values())
    return {"operations": operations, "types": types, "enums": enums}


def whole(client: Client, name: str) -> dict[str, Any]:
    """Return a type with the fields of its bases, and the kinds that it comes in."""
    own = client.types[name]
    fields: dict[str, str] = {}
    for base in own["base"]:
        if base in client.types:
            fields.update(whole(client, base)["fields"])
    fields.update(own["fields"])
    found: dict[str, Any] = {"fields": dict(sorted(fields.items()))}
    kinds = own.get("kinds") or {
        each["kind"]: sub for sub, each in client.types.items() if "kind" in each and name in each["base"]
    }
    if kinds and "discriminator" in own:
        found |= {"discriminator": own["discriminator"], "kinds": kinds}
    return found


def written(head: dict[str, str], facts: dict[str, Any]) -> str:
    """Return a contract as its file has it: an operation, a type or an enumeration a line."""
    lines = [f'"about": {json.dumps(head)}']
    rows = ",\n  ".join(json.dumps(each) for each in facts["operations"])
    lines.append(f'"operations": [\n  {rows}\n]')
    for part in ("types", "enums"):
        rows = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(facts[part].items()))
        lines.append(f'"{part}": {{\n  {rows}\n}}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main(folder: Path) -> None:
    """Write every contract."""
    DATA.mkdir(exist_ok=True)
    for name, source in SOURCES.items():
        (wheel,) = folder.glob(f"{source.wheel}-*.whl")
        package, version = source.wheel.split("-")
        with zipfile.ZipFile(wheel) as archive:
            date = max(info.date_time for info in archive.infolist())
        head = {
            "source": f"{package.replace('_', '-')} {version}, azure/ai/ml/_restclient/{source.module}",
            "date": "{:04}-{:02}-{:02}".format(*date),
            "licence": "MIT, Copyright (c) Microsoft Corporation",
            "made by": "tests/contracts/extract.py",
        }
        facts = selected(read(wheel, source.module), source)
        (DATA / f"{name}.json").write_text(written(head, facts))
        print(name, {part: len(facts[part]) for part in facts})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
