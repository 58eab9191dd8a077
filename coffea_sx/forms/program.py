"""A func_adl query as a program: the expression of its translator, checked and then run.

func_adl_uproot writes a Python expression that calls dask-awkward. The expression is checked
against the vocabulary, and run step by step with awkward in place of dask-awkward: on files by the
embedded ServiceX, on events without rows where a form is derived.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
import vector

from ..errors import QueryError
from . import array_functions, vocabulary
from .interpreter import Interpreter, Names, Scope, Step
from .syntax import excerpt, limited_nesting
from .translation import translate

_READABLE = vocabulary.VECTOR_PROPERTIES | vocabulary.COLLECTION_ATTRIBUTES


@dataclass(frozen=True)
class Program:
    """A query that may be run.

    Attributes
    ----------
    tree : str or None
        The input tree of the query, None if it names none.
    methods : frozenset of str
        Names that are called as methods. The events decide which of them exist.
    """

    tree: str | None
    methods: frozenset[str]
    _step: Step

    def trace(self, form: Any) -> Any:
        """Run the query on a number of events that nobody knows.

        Parameters
        ----------
        form : awkward.forms.RecordForm

        Returns
        -------
        object
            An `awkward.Array` with a form and no data, if the query gives one row for each event.

        Raises
        ------
        QueryError
            For a whole number that grows too large.
        Exception
            Whatever awkward raises for a query that does not fit the events.
        """
        return self.run(ak.typetracer.typetracer_from_form(form))

    def run(self, events: Any) -> Any:
        """Run the query on events, of a form that `trace` has accepted.

        Parameters
        ----------
        events : awkward.Array
            Columns may be read when they are touched.

        Raises
        ------
        Exception
            As `trace`.
        """
        vector.register_awkward()
        return self._step({vocabulary.EVENTS: events})


# A small cache: a program as long as allowed takes much memory.
@functools.lru_cache(maxsize=4)
def program(selection: str) -> Program:
    """Translate and check a query.

    Parameters
    ----------
    selection : str
        qastle.

    Raises
    ------
    QueryError
        If func_adl_uproot cannot translate the query, or if there is anything in it but columns,
        arithmetic, and the functions of the vocabulary.
    """
    with limited_nesting():
        tree, expression = translate(selection)
        interpreter = ProgramInterpreter()
        step = interpreter.interpret(expression)
        return Program(tree, frozenset(interpreter.methods), step)


class ProgramInterpreter(Interpreter):
    """Interpreter of the expressions that func_adl_uproot writes.

    Attributes
    ----------
    methods : set of str
        Names that are called as methods.
    """

    allowed = (
        "Columns of numbers have arithmetic, comparisons, and the functions of numbers that numpy "
        f"has, as np.sqrt, and lists have {vocabulary.LIST_METHODS}."
    )

    def __init__(self) -> None:
        super().__init__(vocabulary.FUNC_ADL_BITS)
        self.methods: set[str] = set()

    # ---- names

    def _name(self, node: ast.Name, scope: Scope) -> Step:
        name = node.id
        if name not in scope:
            raise self.refusal(node, f"There is no variable {name!r}.")
        return lambda names: names[name]

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Step:
        name, owner = node.attr, node.value
        module = owner.id if isinstance(owner, ast.Name) and owner.id not in scope else None
        if module == "np" and name in vocabulary.NP_CONSTANTS:
            constant = vocabulary.NP_CONSTANTS[name]
            return lambda names: constant
        if module is not None:
            raise self.refusal(node)
        self._check_attribute(node)
        value = self.interpret(owner, scope)
        return lambda names: _column(value(names), name, _READABLE)

    def _check_attribute(self, node: ast.Attribute) -> None:
        name = node.attr
        if isinstance(node.value, (ast.Constant, ast.Lambda, ast.List, ast.Tuple, ast.Dict)):
            raise self.refusal(node, "Columns are read from events.")
        if name.startswith("_") or name in vocabulary.HIDDEN_ATTRIBUTES:
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

    def _call_name(self, name: str, node: ast.Call, scope: Scope) -> Step:
        if name == vocabulary.EVENTS and not (node.args or node.keywords):
            return lambda names: names[vocabulary.EVENTS]
        if name == "isinstance":
            return self._isinstance(node, scope)
        function = vocabulary.BUILTINS.get(name)
        if name == "getattr" and [*map(ast.unparse, node.args[1:])] == ["'ndim'"]:
            function = _ndim
        if name == "pow" and len(node.args) == 2:
            function = functools.partial(self.calculate, ast.Pow)
        if function is None:
            raise self.refusal(node, f"There is no function {name}. {self.allowed}")
        if name in vocabulary.BUILTINS_OF_COLUMNS:
            return self.interpret_call(function, node, scope)
        return self.interpret_call(function, node, scope, check=array_functions.no_column)

    def _isinstance(self, node: ast.Call, scope: Scope) -> Step:
        if len(node.args) != 2 or node.keywords or scope.intersection((*vocabulary.TYPES, "dak")):
            raise self.refusal(node)
        name = ast.unparse(node.args[1])
        kind = vocabulary.TYPES.get(name)
        if name == "dak.Array":
            kind = ak.Array
        if kind is None:
            raise self.refusal(node)
        value = self.interpret(node.args[0], scope)
        return lambda names: isinstance(value(names), kind)

    def _call_module(self, module: str, name: str, node: ast.Call, scope: Scope) -> Step:
        if module == "np" and name in vocabulary.NP_FUNCTIONS:
            function = vocabulary.NP_FUNCTIONS[name]
            return self.interpret_call(function, node, scope, check=self.number)
        if module == "dak" and name in vocabulary.DAK_FUNCTIONS:
            return self._call_dak(name, node, scope)
        if module == "functools" and name == "reduce":
            return self._reduce(node, scope)
        raise self.refusal(node)

    def _call_dak(self, name: str, node: ast.Call, scope: Scope) -> Step:
        if name == "combinations":
            size = node.args[1] if len(node.args) == 2 else None
            number = size.value if isinstance(size, ast.Constant) else None
            if not isinstance(number, int) or not 0 <= number <= vocabulary.LARGEST_CHOICE:
                raise self.refusal(
                    node, f"Choose takes a number up to {vocabulary.LARGEST_CHOICE}."
                )
        keywords = vocabulary.DAK_FUNCTIONS[name]
        function = array_functions.FUNCTIONS[name]
        return self.interpret_call(function, node, scope, keywords=keywords)

    def _keyword(self, node: ast.keyword, scope: Scope) -> Step:
        return super()._keyword(node, scope) if node.arg != "dtype" else self._type(node.value)

    def _type(self, node: ast.expr) -> Step:
        """Return the step of ``type(1)``, the type of a constant."""
        arguments = node.args if isinstance(node, ast.Call) and not node.keywords else []
        if len(arguments) != 1 or ast.unparse(node) != f"type({ast.unparse(arguments[0])})":
            raise self.refusal(node)
        value = self.interpret(arguments[0])
        return lambda names: type(value(names))

    def _reduce(self, node: ast.Call, scope: Scope) -> Step:
        functions = {"np.logical_and": np.logical_and, "np.logical_or": np.logical_or}
        function = functions.get(ast.unparse(node.args[0])) if len(node.args) == 2 else None
        if function is None or "np" in scope or not isinstance(node.args[1], ast.List):
            raise self.refusal(node)
        values = self.interpret_all(node.args[1].elts, scope)
        return lambda names: functools.reduce(function, map(self.number, values(names)))

    def _call_method(self, function: ast.Attribute, node: ast.Call, scope: Scope) -> Step:
        name = function.attr
        self._check_attribute(function)
        self.methods.add(name)
        owner, values = self.interpret(function.value, scope), self._arguments(node, scope)
        return lambda names: _column(owner(names), name, vocabulary.VECTOR_METHODS)(*values(names))

    def _call_lambda(self, function: ast.Lambda, node: ast.Call, scope: Scope) -> Step:
        parameters = function.args
        variables = [parameter.arg for parameter in parameters.args]
        others = (parameters.posonlyargs, parameters.kwonlyargs, parameters.defaults)
        is_plain = not any((*others, parameters.vararg, parameters.kwarg))
        if not is_plain or len(set(variables)) != len(variables):
            raise self.refusal(function, "A lambda has variables only, each with its own name.")
        for variable in vocabulary.RESERVED.intersection(variables):
            raise self.refusal(
                function, f"Rename the variable {variable!r}: the server uses the name."
            )
        body = self.interpret(function.body, scope.union(variables))
        if len(node.args) == 1 and isinstance(node.args[0], ast.Starred) and not node.keywords:
            values = self.interpret(node.args[0].value, scope)
        else:
            values = self._arguments(node, scope)
            if len(node.args) != len(variables):
                raise self.refusal(node, "The lambda has another number of variables.")
        return lambda names: body(_bound(names, variables, values(names)))

    def _arguments(self, node: ast.Call, scope: Scope) -> Callable[[Names], list[Any]]:
        if node.keywords:
            raise self.refusal(node, "This function has no keywords.")
        return self.interpret_all(node.args, scope)

    # ---- conditions and loops of the translator

    def _subscript(self, node: ast.Subscript, scope: Scope) -> Step:
        value, item = self.interpret(node.value, scope), self.interpret(node.slice, scope)
        return lambda names: _indexed(value(names), item(names), node)

    def _conditional(self, node: ast.IfExp, scope: Scope) -> Step:
        parts = (node.test, node.body, node.orelse)
        test, yes, no = (self.interpret(part, scope) for part in parts)
        return lambda names: yes(names) if array_functions.truth(test(names)) else no(names)

    def _boolean(self, node: ast.BoolOp, scope: Scope) -> Step:
        steps = [self.interpret(value, scope) for value in node.values]
        ends_with = isinstance(node.op, ast.Or)

        def run(names: Names) -> Any:
            value = None
            for step in steps:
                value = step(names)
                if array_functions.truth(value) is ends_with:
                    break
            return value

        return run

    def _unary(self, node: ast.UnaryOp, scope: Scope) -> Step:
        if isinstance(node.op, ast.Not):
            operand = self.interpret(node.operand, scope)
            return lambda names: not array_functions.truth(operand(names))
        return super()._unary(node, scope)

    def _dict_comprehension(self, node: ast.DictComp, scope: Scope) -> Step:
        """Return the step of ``{key: ... for key, value in selection.items()}``."""
        target, items = self._loop(node, node.generators)
        function = items.func if isinstance(items, ast.Call) else None
        pair = target.elts if isinstance(target, ast.Tuple) else []
        source = function.value if isinstance(function, ast.Attribute) else items
        if len(pair) != 2 or ast.unparse(items) != f"{ast.unparse(source)}.items()":
            raise self.refusal(node)
        variables = [self._variable(node, element) for element in pair]
        inner = scope.union(variables)
        selected = self.interpret(source, scope)
        key, value = self.interpret(node.key, inner), self.interpret(node.value, inner)

        def run(names: Names) -> Any:
            pairs = dict.items(selected(names))
            bound = [_bound(names, variables, pair) for pair in pairs]
            return {key(names): value(names) for names in bound}

        return run

    def _list_comprehension(self, node: ast.ListComp, scope: Scope) -> Step:
        """Return the step of ``[... for i in dak.unzip(...)]``."""
        target, items = self._loop(node, node.generators)
        if not isinstance(items, ast.Call) or ast.unparse(items.func) != "dak.unzip":
            raise self.refusal(node)
        variable = self._variable(node, target)
        values, element = self.interpret(items, scope), self.interpret(node.elt, scope | {variable})
        return lambda names: [element({**names, variable: value}) for value in values(names)]

    def _loop(self, node: ast.AST, loops: list[ast.comprehension]) -> tuple[ast.expr, ast.expr]:
        (loop, *others) = loops
        if others or loop.ifs or loop.is_async:
            raise self.refusal(node)
        return loop.target, loop.iter

    def _variable(self, node: ast.AST, target: ast.expr) -> str:
        if not isinstance(target, ast.Name) or target.id in vocabulary.RESERVED:
            raise self.refusal(node)
        return target.id

    nodes = {
        **Interpreter.nodes,
        ast.Name: _name,
        ast.Attribute: _attribute,
        ast.Call: _call,
        ast.Subscript: _subscript,
        ast.IfExp: _conditional,
        ast.BoolOp: _boolean,
        ast.UnaryOp: _unary,
        ast.DictComp: _dict_comprehension,
        ast.ListComp: _list_comprehension,
    }


def _bound(names: Names, variables: list[str], values: Any) -> Names:
    return {**names, **dict(zip(variables, values, strict=True))}


def _indexed(value: Any, item: Any, node: ast.Subscript) -> Any:
    """Return columns, entries of lists, what fulfils a condition, or one event.

    Raises
    ------
    QueryError
        For one number or truth value in place of a condition: awkward takes the number for that
        of an event, and the truth value for a new dimension.
    """
    if isinstance(value, ak.Array) and not isinstance(item, (str, list, tuple, ak.Array)):
        event = value[item] if isinstance(item, int) and not isinstance(item, bool) else None
        if not isinstance(event, ak.Record):
            raise QueryError(
                f"{excerpt(node.slice)!r} has one value, {item}, for all events. The condition "
                "of a Where compares columns, so that there is one answer for each event or entry."
            )
        return event
    return array_functions.getitem(value, item)


def _ndim(value: Any, _: str) -> Any:
    return _column(value, "ndim", _READABLE)


def _column(value: Any, name: str, attributes: frozenset[str]) -> Any:
    """Return a column of a collection, or one of the attributes that are allowed.

    Raises
    ------
    AttributeError
        For any other name, and for values that are no collections.
    """
    if not array_functions.is_collection(value):
        raise AttributeError(f"{type(value).__name__!r} object has no attribute {name!r}")
    if name in value.fields and name not in vocabulary.COLLECTION_ATTRIBUTES:
        return value[name]
    if name in attributes:
        return getattr(value, name)
    raise AttributeError(f"{name} not in fields.")
