"""A package of scalectl imports only packages of a lower rung, and no two import one another."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "scalectl"
RUNGS = [
    {"core"},
    {"models", "tasks", "optim", "laws", "store", "references"},
    {"sweep", "train", "fit"},
    {"emergence", "executors"},
    {"report"},
    {"commands"},
    {"cli", "notebook"},
]
RUNG = {name: rung for rung, names in enumerate(RUNGS) for name in names}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the rung"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def edges():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for name in imports(path):
            target = name.split(".")
            if target[0] == "scalectl" and len(target) > 1 and target[1] in RUNG and target[1] != parts[0]:
                yield path, parts[0], target[1]


def test_every_package_has_a_rung():
    packages = {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()} | {"cli", "notebook"}
    assert packages <= set(RUNG), f"give {packages - set(RUNG)} a rung"


def test_no_import_goes_up_or_sideways():
    wrong = [f"{path.relative_to(ROOT)} imports {target}" for path, own, target in edges() if RUNG[target] >= RUNG[own]]
    assert not wrong, "\n".join(wrong)


def test_modules_do_not_import_in_a_circle():
    graph = {}
    for path in ROOT.rglob("*.py"):
        own = ".".join(("scalectl", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        graph[own] = {name for name in imports(path) if name.startswith("scalectl")}
    known = set(graph)
    graph = {own: {name for name in names if name in known and name != own} for own, names in graph.items()}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in graph[name]:
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_only_training_imports_torch():
    allowed = {"train", "forward", "layers", "primitives", "cpu", "tape", "adamw", "sgd", "muon", "examine"}
    wrong = [
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if any(name.split(".")[0] == "torch" for name in imports(path))
        and not allowed & set(path.relative_to(ROOT).with_suffix("").parts)
    ]
    assert not wrong
