"""Small faults: what each piece of a module may become."""

import ast
import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

COMPARED = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
COMPUTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A file, the piece of it (by offsets into its text) that is replaced, and by what."""

    file: str
    start: int
    end: int
    new: str

    def applied(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.end :]

    def diff(self, text: str) -> tuple[str, str]:
        """Give the lines that it changes, as they are and as they become, each on one line."""
        first = text.rfind("\n", 0, self.start) + 1
        last = text.find("\n", self.end)
        after = text[first : self.start] + self.new + text[self.end : last]
        return " ".join(text[first:last].split()), " ".join(after.split())


def mutants(file: str, text: str, only: frozenset[str] | None = None) -> list[Mutant]:
    """List all mutants of a module, or of some of its functions, in the order of its text."""
    tree = ast.parse(text)
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    encoded = text.encode()

    def place(line: int, column: int) -> int:
        return len(encoded[: starts[line - 1] + column].decode())

    found = []
    for node in _nodes(tree, only):
        assert node.end_lineno is not None and node.end_col_offset is not None
        start, end = place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)
        for new in _changes(node):
            mutant = Mutant(file, start, end, new)
            with suppress(SyntaxError):
                compile(mutant.applied(text), file, "exec")
                found.append(mutant)
    return list(dict.fromkeys(found))


def _nodes(tree: ast.AST, only: frozenset[str] | None) -> Iterator[ast.expr | ast.stmt]:
    """Walk what is computed: not types, docstrings, imports, messages of errors and of the log."""
    if only is not None:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name in only:
                yield from _nodes(node, None)
        return
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_passed_over(child):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            if isinstance(child, ast.Raise | ast.JoinedStr):  # 3.11 has no places inside of f-strings
                continue
            yield from _nodes(child, None)


def _is_passed_over(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.FunctionDef(name="__repr__"):
            return True
        case ast.Expr(value=ast.Constant()):  # a docstring
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="_log")))):
            return True
        case ast.Assign(targets=[ast.Name(id="_log" | "T")]):
            return True
    return False


def _changes(node: ast.expr | ast.stmt) -> Iterator[str]:
    """Give what a node may become."""
    change = CHANGES.get(type(node))
    if change is not None:
        yield from change(node)


def _compared(node: ast.Compare) -> Iterator[str]:
    for number, operator in enumerate(node.ops):
        for other in COMPARED[type(operator)]:
            yield _edited(node, lambda new, i=number, kind=other: new.ops.__setitem__(i, kind()))


def _joined(node: ast.BoolOp) -> Iterator[str]:
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield _edited(node, lambda new: setattr(new, "op", other))


def _without_sign(node: ast.UnaryOp) -> Iterator[str]:
    yield f"({ast.unparse(node.operand)})"


def _another_constant(node: ast.Constant) -> Iterator[str]:
    if isinstance(node.value, bool):
        yield str(not node.value)
    elif isinstance(node.value, int | float):
        yield from (f"({node.value + 1})", f"({node.value - 1})")


def _computed(node: ast.BinOp) -> Iterator[str]:
    if type(node.op) in COMPUTED and not _has_text(node):
        yield _edited(node, lambda new: setattr(new, "op", COMPUTED[type(new.op)]()))


def _one_branch(node: ast.IfExp) -> Iterator[str]:
    yield from (f"({ast.unparse(branch)})" for branch in (node.body, node.orelse))


def _with_a_gap(node: ast.JoinedStr) -> Iterator[str]:
    for number, value in enumerate(node.values):
        if isinstance(value, ast.FormattedValue):
            yield _edited(node, lambda new, i=number: new.values.pop(i))


def _other_arguments(node: ast.Call) -> Iterator[str]:
    if len(node.args) > 1 and not isinstance(node.args[0], ast.Starred):
        yield _edited(node, lambda new: new.args.__setitem__(slice(0, 2), new.args[1::-1]))
    for number, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            yield _edited(node, lambda new, i=number: new.keywords.pop(i))


def _unfiltered(node: ast.GeneratorExp) -> Iterator[str]:
    for number, each in enumerate(node.generators):
        if each.ifs:
            yield _edited(node, lambda new, i=number: new.generators[i].ifs.clear())


def _nothing_returned(node: ast.Return) -> Iterator[str]:
    if node.value is not None and ast.unparse(node.value) != "None":
        yield "return None"


def _removed(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call | ast.Yield):
        return
    # Without an assignment to a name the module would not even run.
    if isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Attribute | ast.Subscript):
        return
    yield "pass"


CHANGES: dict[type[ast.AST], Callable[[Any], Iterator[str]]] = {
    ast.Compare: _compared, ast.BoolOp: _joined, ast.UnaryOp: _without_sign, ast.Constant: _another_constant,
    ast.BinOp: _computed, ast.IfExp: _one_branch, ast.JoinedStr: _with_a_gap, ast.Call: _other_arguments,
    ast.GeneratorExp: _unfiltered, ast.ListComp: _unfiltered, ast.SetComp: _unfiltered,
    ast.DictComp: _unfiltered, ast.Return: _nothing_returned, ast.Expr: _removed, ast.AugAssign: _removed,
    ast.Delete: _removed, ast.Raise: _removed, ast.Assign: _removed, ast.Continue: _removed,
    ast.Break: _removed,
}  # fmt: skip


def _edited(node: ast.expr, edit: Callable[[Any], object]) -> str:
    new = copy.deepcopy(node)
    edit(new)
    return ast.unparse(new) if isinstance(node, ast.JoinedStr) else f"({ast.unparse(new)})"


def _has_text(node: ast.AST) -> bool:
    return any(
        isinstance(each, ast.JoinedStr) or (isinstance(each, ast.Constant) and isinstance(each.value, str))
        for each in ast.walk(node)
    )
