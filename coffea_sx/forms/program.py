"""A func_adl_uproot query as a program: what its translator writes, checked and then run.

func_adl_uproot writes a Python expression that calls dask-awkward. The expression is read as a
syntax tree, and run step by step: on files by the embedded ServiceX, on events without rows where a
form is derived. What the translator does not write is refused, and so is what numpy and vector have
besides functions of numbers and of vectors.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import QueryError
from ..query import Advice, advice, describe_error
from .interpreter import (
    Language,
    Names,
    Scope,
    Step,
    not_too_deep,
    part,
    refuse_long,
    refuse_unsaid,
)

LIST_METHODS = "Select, Where, Count, Sum, Min, Max, First, Any and All"
_UNTRANSLATABLE: Advice = (
    (
        "Unknown id",
        "It is no variable that was there when the query was written, and none of the server's: "
        "those of numpy are called as np.sqrt.",
    ),
)
_EVENTS = "EventDataset"
_LONGEST_PRODUCT = 1_000_000
# No whole number of a column is longer; a query may name one that does not fit.
_BITS = 128
_MOST_CHOSEN = 100
_LONGEST_REASON = 300

# What the translator calls of dask-awkward, with the keywords that it gives.
DAK: dict[str, frozenset[str]] = {
    "all": frozenset({"axis"}),
    "any": frozenset({"axis"}),
    "argsort": frozenset({"axis", "ascending"}),
    "cartesian": frozenset({"axis", "nested"}),
    "combinations": frozenset({"axis"}),
    "concatenate": frozenset({"axis"}),
    "flatten": frozenset({"axis"}),
    "full_like": frozenset({"dtype"}),
    "max": frozenset({"axis"}),
    "min": frozenset({"axis"}),
    "num": frozenset({"axis"}),
    "singletons": frozenset({"axis"}),
    "sum": frozenset({"axis"}),
    "unzip": frozenset(),
    "where": frozenset(),
    "with_name": frozenset(),
    "zip": frozenset({"depth_limit"}),
}
# dask-awkward knows numpy's ufuncs, and these, which are made of ufuncs.
_MADE_OF_UFUNCS = ("fix", "isneginf", "isposinf")
_NUMBER_TYPES = (
    *("bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float32", "float64"),
)
NP_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(np, name)
    for name in dir(np)
    if isinstance(getattr(np, name), np.ufunc) or name in (*_MADE_OF_UFUNCS, *_NUMBER_TYPES)
}
NP_CONSTANTS: dict[str, float] = {
    name: getattr(np, name) for name in ("e", "euler_gamma", "inf", "nan", "pi")
}
# Properties and methods of vectors.
PROPERTIES = frozenset(
    (
        *("x", "y", "z", "t", "t2", "rho", "rho2", "phi", "theta", "eta", "costheta", "cottheta"),
        *("mag", "mag2", "tau", "tau2", "beta", "gamma", "rapidity", "pseudorapidity"),
        *("px", "py", "pz", "pt", "pt2", "p", "p2", "E", "E2", "e", "e2", "energy", "energy2"),
        *("M", "M2", "m", "m2", "mass", "mass2", "Et", "Et2", "et", "et2", "Mt", "Mt2", "mt"),
        *("mt2", "transverse_energy", "transverse_energy2", "transverse_mass"),
        *("transverse_mass2", "neg2D", "neg3D", "neg4D"),
    )
)
_SYSTEMS = (
    *("xy", "rhophi", "pxpy", "ptphi", "xyz", "xytheta", "xyeta", "rhophiz", "rhophitheta"),
    *("rhophieta", "pxpypz", "pxpytheta", "pxpyeta", "ptphipz", "ptphitheta", "ptphieta", "xyzt"),
    *("xyztau", "xythetat", "xythetatau", "xyetat", "xyetatau", "rhophizt", "rhophiztau"),
    *("rhophithetat", "rhophithetatau", "rhophietat", "rhophietatau", "pxpypzenergy"),
    *("pxpypzmass", "pxpythetaenergy", "pxpythetamass", "pxpyetaenergy", "pxpyetamass"),
    *("ptphipzenergy", "ptphipzmass", "ptphithetaenergy", "ptphithetamass", "ptphietaenergy"),
    *("ptphietamass", "2D", "3D", "4D", "Vector2D", "Vector3D", "Vector4D", "beta3"),
)
METHODS = frozenset(
    (
        *("add", "subtract", "scale", "scale2D", "scale3D", "scale4D", "unit", "dot", "cross"),
        *("deltaphi", "deltaeta", "deltaR", "deltaR2", "deltaangle", "deltaRapidityPhi"),
        *("deltaRapidityPhi2", "rotateX", "rotateY", "rotateZ", "rotate_axis", "rotate_euler"),
        *("rotate_nautical", "rotate_quaternion", "boost", "boostX", "boostY", "boostZ"),
        *("boost_p4", "boost_beta3", "boostCM_of", "boostCM_of_p4", "boostCM_of_beta3"),
        *("equal", "not_equal", "isclose", "is_parallel", "is_antiparallel", "is_perpendicular"),
        *("is_timelike", "is_spacelike", "is_lightlike", "like"),
        *(f"to_{system}" for system in _SYSTEMS),
    )
)
# What the translator itself reads from collections of columns.
_COLUMNS_OF = frozenset(("fields", "ndim"))
_READ = PROPERTIES | _COLUMNS_OF


def _only_sum(values: Any) -> Any:
    return sum(values)


def _round(value: Any, digits: Any = None) -> Any:
    if isinstance(digits, int) and abs(digits) > _BITS:
        raise QueryError(f"The query rounds to {digits} digits.")
    return round(value, digits)


_BUILTINS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "all": all,
    "any": any,
    "bool": bool,
    "complex": complex,
    "divmod": divmod,
    "float": float,
    "int": int,
    "len": len,
    "max": max,
    "min": min,
    "round": _round,
    "sorted": sorted,
    "sum": _only_sum,
}
FUNCTIONS = frozenset((*_BUILTINS, "pow"))
_KINDS: dict[str, type] = {"dict": dict, "int": int, "slice": slice}
# What the translator's own text calls by these names.
RESERVED = frozenset(
    ("dak", "np", "functools", "getattr", "isinstance", "len", "type", _EVENTS, *_KINDS)
)


@dataclass(frozen=True)
class Program:
    """A query that may be run.

    Attributes
    ----------
    tree : str or None
        The input tree that it reads, None if it does not say.
    methods : frozenset of str
        What it calls as methods; which of them there are, the events decide.
    """

    tree: str | None
    methods: frozenset[str]
    _step: Step

    def run(self, events: Any) -> Any:
        """Return what the query makes of events.

        Parameters
        ----------
        events : dask_awkward.Array

        Raises
        ------
        QueryError
            For numbers that grow without end.
        Exception
            Whatever dask-awkward raises for a query that does not fit the events.
        """
        import vector

        vector.register_awkward()
        return self._step({_EVENTS: events})


# Few: one that is as long as allowed takes much memory.
@functools.lru_cache(maxsize=4)
def program(selection: str) -> Program:
    """Translate a query, and check what the translator writes.

    Parameters
    ----------
    selection : str
        qastle.

    Raises
    ------
    QueryError
        If func_adl_uproot cannot translate it, or if it asks for anything but columns, arithmetic,
        and the functions that the translator, numpy and vector have for them.
    """
    refuse_long(selection)
    with not_too_deep():
        tree, product = _translated(selection)
        language = _Product()
        step = language.step(_parsed(product))
        return Program(tree, frozenset(language.methods), step)


def _translated(selection: str) -> tuple[str | None, str]:
    """Return the input tree and what the translator writes."""
    import qastle

    try:
        query = qastle.insert_linq_nodes(qastle.text_ast_to_python_ast(selection))
        refuse_unsaid(query)
        return _tree(query), _translator().get_rep(query)
    except (QueryError, RecursionError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error.__context__, (RecursionError, MemoryError)):
            raise error.__context__ from None
        raise QueryError(
            f"func_adl_uproot cannot translate the query: "
            f"{describe_error(error)[:_LONGEST_REASON]} {advice(error, _UNTRANSLATABLE)}".rstrip()
        ) from error


def _translator() -> Any:
    from func_adl_uproot.transformer import PythonSourceGeneratorTransformer

    class OnGivenEvents(PythonSourceGeneratorTransformer):
        """Read the events that are given where the server would open files."""

        def visit_Call(self, node: Any) -> Any:  # noqa: N802
            if getattr(node.func, "id", None) == _EVENTS:
                node.rep, node._depth = f"{_EVENTS}()", 0
                return node
            return super().visit_Call(node)

        def visit(self, node: Any) -> Any:
            node = super().visit(node)
            # It writes some parts of a query three times, and parts of parts nine times.
            if len(getattr(node, "rep", "")) > _LONGEST_PRODUCT:
                raise QueryError(
                    "The query cannot be translated: the translation has no end. Nest fewer [...] "
                    "and fewer collections."
                )
            return node

    return OnGivenEvents()


def _tree(query: ast.AST) -> str | None:
    trees: dict[str | None, None] = {}
    for node in ast.walk(query):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == _EVENTS:
            given = [ast.literal_eval(argument) for argument in node.args]
            tree = given[1] if len(given) > 1 else None
            if len(given) > 2 or not isinstance(tree, (str, type(None))):
                raise QueryError(
                    f"The query cannot be translated: {part(node)!r} does not name files and a "
                    "tree."
                )
            trees[tree] = None
    if len(trees) != 1:
        what = ", ".join(map(repr, trees)) or "none"
        raise QueryError(f"The query cannot be translated: it must read one tree, it reads {what}.")
    return next(iter(trees))


def _parsed(product: str) -> ast.expr:
    try:
        return ast.parse(product, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise QueryError(
            f"func_adl_uproot cannot translate the query: it writes no expression: "
            f"{describe_error(error)}"
        ) from None


class _Product(Language):
    """What func_adl_uproot writes."""

    def __init__(self) -> None:
        super().__init__(_BITS)
        self.methods: set[str] = set()

    def allowed(self) -> str:
        return (
            "Columns of numbers have arithmetic, comparisons, and the functions of numbers that "
            f"numpy has, as np.sqrt, and lists have {LIST_METHODS}."
        )

    # ---- names

    def _name(self, node: ast.Name, scope: Scope) -> Step:
        name = node.id
        if name not in scope:
            raise self.refusal(node, f"There is no variable {name!r}.")
        return lambda names: names[name]

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Step:
        name, owner = node.attr, node.value
        module = owner.id if isinstance(owner, ast.Name) and owner.id not in scope else None
        if module == "np" and name in NP_CONSTANTS:
            constant = NP_CONSTANTS[name]
            return lambda names: constant
        if module is not None:
            raise self.refusal(node)
        self._refuse_attribute(node)
        value = self.step(owner, scope)
        return lambda names: _column(value(names), name, _READ)

    def _refuse_attribute(self, node: ast.Attribute) -> None:
        name = node.attr
        if isinstance(node.value, (ast.Constant, ast.Lambda, ast.List, ast.Tuple, ast.Dict)):
            raise self.refusal(node, "Columns are read from events.")
        if name.startswith("_") or (name in _of_arrays() and name not in _COLUMNS_OF):
            raise self.refusal(node, f'A column with this name is read by e["{name}"].')

    # ---- calls

    def _call(self, node: ast.Call, scope: Scope) -> Step:
        function = node.func
        if isinstance(function, ast.Lambda):
            return self._call_lambda(function, node, scope)
        if isinstance(function, ast.Name) and function.id not in scope:
            return self._call_name(function.id, node, scope)
        if isinstance(function, ast.Attribute):
            owner = function.value
            if isinstance(owner, ast.Name) and owner.id not in scope:
                return self._call_module(owner.id, function.attr, node, scope)
            return self._call_method(function, node, scope)
        raise self.refusal(node, "Only functions can be called, by their names.")

    def _values(self, node: ast.Call, scope: Scope) -> Callable[[Names], list[Any]]:
        if node.keywords:
            raise self.refusal(node, "This function has no keywords.")
        return self.several(node.args, scope)

    def _call_name(self, name: str, node: ast.Call, scope: Scope) -> Step:
        if name == _EVENTS and not (node.args or node.keywords):
            return lambda names: names[_EVENTS]
        if name == "isinstance":
            return self._is_instance(node, scope)
        values = self._values(node, scope)
        if name == "getattr" and _text_of(node, 1) == "ndim" and len(node.args) == 2:
            return lambda names: _column(values(names)[0], "ndim", _READ)
        if name == "pow" and len(node.args) == 2:
            return lambda names: self.calculate(ast.Pow, *values(names))
        function = _BUILTINS.get(name)
        if function is None:
            raise self.refusal(node, f"There is no function {name}. {self.allowed()}")
        return lambda names: function(*values(names))

    def _is_instance(self, node: ast.Call, scope: Scope) -> Step:
        if len(node.args) != 2 or node.keywords:
            raise self.refusal(node)
        kind = node.args[1]
        wanted = _KINDS.get(kind.id) if isinstance(kind, ast.Name) else None
        if ast.unparse(kind) == "dak.Array":
            import dask_awkward as dak

            wanted = dak.Array
        if wanted is None or scope.intersection((*_KINDS, "dak")):
            raise self.refusal(node)
        value = self.step(node.args[0], scope)
        return lambda names: isinstance(value(names), wanted)

    def _call_module(self, module: str, name: str, node: ast.Call, scope: Scope) -> Step:
        if module == "np" and name in NP_FUNCTIONS:
            function, values = NP_FUNCTIONS[name], self._values(node, scope)
            return lambda names: function(*map(self.number, values(names)))
        if module == "dak" and name in DAK:
            return self._call_dak(name, node, scope)
        if module == "functools" and name == "reduce":
            return self._reduce(node, scope)
        raise self.refusal(node)

    def _call_dak(self, name: str, node: ast.Call, scope: Scope) -> Step:
        import dask_awkward as dak

        function, values = getattr(dak, name), self.several(node.args, scope)
        options = {}
        for given in node.keywords:
            if given.arg not in DAK[name]:
                raise self.refusal(node, f"dak.{name} has no keyword {given.arg}.")
            options[given.arg] = (
                self._type_of(given.value)
                if given.arg == "dtype"
                else self.step(given.value, scope)
            )
        if name == "combinations":
            chosen = node.args[1] if len(node.args) == 2 else None
            n = chosen.value if isinstance(chosen, ast.Constant) else None
            if not isinstance(n, int) or not 0 <= n <= _MOST_CHOSEN:
                raise self.refusal(node, f"Choose takes a number up to {_MOST_CHOSEN}.")
        return lambda names: function(
            *values(names), **{option: step(names) for option, step in options.items()}
        )

    def _type_of(self, node: ast.expr) -> Step:
        """Make the step of ``type(1)``: the type of a constant."""
        given = node.args if isinstance(node, ast.Call) and not node.keywords else []
        if ast.unparse(node) != f"type({', '.join(map(ast.unparse, given))})" or len(given) != 1:
            raise self.refusal(node)
        value = self.step(given[0])
        return lambda names: type(value(names))

    def _reduce(self, node: ast.Call, scope: Scope) -> Step:
        known = {"np.logical_and": np.logical_and, "np.logical_or": np.logical_or}
        function = known.get(ast.unparse(node.args[0])) if len(node.args) == 2 else None
        if function is None or "np" in scope or not isinstance(node.args[1], ast.List):
            raise self.refusal(node)
        values = self.several(node.args[1].elts, scope)
        return lambda names: functools.reduce(function, map(self.number, values(names)))

    def _call_method(self, function: ast.Attribute, node: ast.Call, scope: Scope) -> Step:
        name = function.attr
        self._refuse_attribute(function)
        self.methods.add(name)
        owner, values = self.step(function.value, scope), self._values(node, scope)
        return lambda names: _column(owner(names), name, METHODS)(*values(names))

    def _call_lambda(self, function: ast.Lambda, node: ast.Call, scope: Scope) -> Step:
        given = function.args
        variables = [argument.arg for argument in given.args]
        others = (given.posonlyargs, given.kwonlyargs, given.defaults, given.vararg, given.kwarg)
        if any(others) or len(set(variables)) != len(variables):
            raise self.refusal(
                function, "A lambda has variables only, and lambdas in lambdas have others."
            )
        for variable in variables:
            if variable in RESERVED:
                raise self.refusal(
                    function, f"Call the variable {variable!r} otherwise: the server uses the name."
                )
        body = self.step(function.body, scope.union(variables))
        if len(node.args) == 1 and isinstance(node.args[0], ast.Starred) and not node.keywords:
            several = self.step(node.args[0].value, scope)
            return lambda names: body(_bound(names, variables, several(names)))
        values = self._values(node, scope)
        if len(node.args) != len(variables):
            raise self.refusal(node, "The lambda takes another number of values.")
        return lambda names: body(_bound(names, variables, values(names)))

    # ---- what the translator writes around

    def _conditional(self, node: ast.IfExp, scope: Scope) -> Step:
        test, yes, no = (self.step(x, scope) for x in (node.test, node.body, node.orelse))
        return lambda names: yes(names) if test(names) else no(names)

    def _boolean(self, node: ast.BoolOp, scope: Scope) -> Step:
        steps = [self.step(value, scope) for value in node.values]
        ends_with = isinstance(node.op, ast.Or)

        def run(names: Names) -> Any:
            value = None
            for step in steps:
                value = step(names)
                if bool(value) is ends_with:
                    break
            return value

        return run

    def _unary(self, node: ast.UnaryOp, scope: Scope) -> Step:
        if isinstance(node.op, ast.Not):
            operand = self.step(node.operand, scope)
            return lambda names: not operand(names)
        return super()._unary(node, scope)

    def _a_dict_of(self, node: ast.DictComp, scope: Scope) -> Step:
        """Make the step of ``{key: ... for key, value in selection.items()}``."""
        target, items = self._loop(node, node.generators)
        function = items.func if isinstance(items, ast.Call) else None
        pair = target.elts if isinstance(target, ast.Tuple) else []
        source = function.value if isinstance(function, ast.Attribute) else items
        if len(pair) != 2 or ast.unparse(items) != f"{ast.unparse(source)}.items()":
            raise self.refusal(node)
        variables = [self._variable(node, element) for element in pair]
        inside = scope.union(variables)
        selected = self.step(source, scope)
        key, value = self.step(node.key, inside), self.step(node.value, inside)

        def run(names: Names) -> Any:
            pairs = dict.items(selected(names))
            bound = [_bound(names, variables, pair) for pair in pairs]
            return {key(names): value(names) for names in bound}

        return run

    def _a_list_of(self, node: ast.ListComp, scope: Scope) -> Step:
        """Make the step of ``[... for i in dak.unzip(...)]``."""
        target, items = self._loop(node, node.generators)
        if not isinstance(items, ast.Call) or ast.unparse(items.func) != "dak.unzip":
            raise self.refusal(node)
        variable = self._variable(node, target)
        values, element = self.step(items, scope), self.step(node.elt, scope | {variable})
        return lambda names: [
            element(_bound(names, [variable], [value])) for value in values(names)
        ]

    def _loop(self, node: ast.AST, loops: list[ast.comprehension]) -> tuple[ast.expr, ast.expr]:
        (loop, *others) = loops
        if others or loop.ifs or loop.is_async:
            raise self.refusal(node)
        return loop.target, loop.iter

    def _variable(self, node: ast.AST, target: ast.expr) -> str:
        if not isinstance(target, ast.Name) or target.id in RESERVED:
            raise self.refusal(node)
        return target.id

    nodes = {
        **Language.nodes,
        ast.Name: _name,
        ast.Attribute: _attribute,
        ast.Call: _call,
        ast.IfExp: _conditional,
        ast.BoolOp: _boolean,
        ast.UnaryOp: _unary,
        ast.DictComp: _a_dict_of,
        ast.ListComp: _a_list_of,
    }


def _bound(names: Names, variables: list[str], values: Any) -> Names:
    return {**names, **dict(zip(variables, values, strict=True))}


def _text_of(node: ast.Call, index: int) -> Any:
    given = node.args[index] if len(node.args) > index else None
    return given.value if isinstance(given, ast.Constant) else None


@functools.cache
def _of_arrays() -> frozenset[str]:
    """Name what dask-awkward's collections have besides columns."""
    import dask_awkward as dak

    return frozenset((*dir(dak.Array), *dir(dak.Record), *dir(dak.Scalar)))


def _column(value: Any, name: str, others: frozenset[str]) -> Any:
    """Return a column of a collection, or another attribute if it is among those that are allowed.

    Raises
    ------
    AttributeError
        For anything else.
    """
    import dask_awkward as dak

    if not isinstance(value, (dak.Array, dak.Record)):
        raise AttributeError(f"{type(value).__name__!r} object has no attribute {name!r}")
    if name in value.fields or name in others:
        return getattr(value, name)
    raise AttributeError(f"{name} not in fields.")
