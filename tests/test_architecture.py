"""The plan of the house: the order of the floors, small files, and what may not be imported where."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import groundup

SOURCE = Path(groundup.__file__).parent
FLOORS = [
    "basis",
    "data",
    "augment",
    "models",
    "optim",
    "evaluation",
    "tracking",
    "training",
    "recipe",
    "preflight",
    "runs",
    "compare",
    "ship",
    "cli",
]
FILES = sorted(path for path in SOURCE.rglob("*.py"))
# Seconds to import, or only needed by some commands: never while a module is loaded.
HEAVY = {
    *(
        "matplotlib",
        "sklearn",
        "datasets",
        "torchmetrics",
        "tensorboard",
        "pyarrow",
        "gradio",
        "huggingface_hub",
        "onnx",
        "onnxruntime",
        "scipy",
        "wandb",
        "plotly",
    ),
}


def imports(path: Path, *, at_load: bool = False) -> Iterator[str]:
    """Dotted names that a module imports; `at_load`: only those that loading it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _at_load(tree) if at_load else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield module
            if module == "groundup":
                yield from (f"groundup.{alias.name}" for alias in node.names)


def _at_load(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _at_load(child)


def floor_of(path: Path) -> str | None:
    """The room of a module, None for the modules beside the rooms."""
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else None


def name(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_every_room_has_its_floor() -> None:
    rooms = {floor_of(path) for path in FILES} - {None}
    assert rooms <= set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_room_imports_only_from_rooms_above_it(path: Path) -> None:
    here = floor_of(path)
    if here is None:
        return
    allowed = {*FLOORS[: FLOORS.index(here) + 1], "version"}
    for imported in imports(path):
        room = imported.split(".")[1] if imported.startswith("groundup.") else None
        assert room is None or room in allowed, f"{name(path)} imports {imported}, which is below it"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_module_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_every_module_with_code_has_a_docstring() -> None:
    silent = [
        name(path) for path in FILES if (tree := ast.parse(path.read_text())).body and not ast.get_docstring(tree)
    ]
    assert silent == []


def test_every_public_class_and_function_has_a_docstring() -> None:
    silent = []
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            named = isinstance(node, ast.ClassDef | ast.FunctionDef)
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{name(path)}: {node.name}")
    assert silent == []


@pytest.mark.parametrize("path", FILES, ids=name)
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    loaded = {imported.split(".")[0] for imported in imports(path, at_load=True)}
    assert not loaded & HEAVY


def test_the_command_line_is_loaded_without_torch_or_numpy() -> None:
    for path in (SOURCE / "__init__.py", SOURCE / "__main__.py", *(SOURCE / "cli").glob("*.py")):
        loaded = {imported for imported in imports(path, at_load=True)}
        assert not {module.split(".")[0] for module in loaded} & {"torch", "numpy", "PIL", "pydantic"}
        rooms = {module.split(".")[1] for module in loaded if module.startswith("groundup.")}
        assert rooms <= {"basis", "cli", "version"}


def test_basis_knows_no_other_room() -> None:
    for path in (SOURCE / "basis").glob("*.py"):
        assert all(module.split(".")[1] == "basis" for module in imports(path) if module.startswith("groundup."))
