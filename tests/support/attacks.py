"""Queries that try to run code, to read other data, or to keep the machine busy.

``CANARY`` is the path of a file that the code would make.
"""

from __future__ import annotations

import json
from typing import Any

EVENTS = "(call EventDataset 'b.root' 'Events')"
TOUCH = 'open("CANARY", "w")'


def column(body: str) -> str:
    """Write a func_adl query with one column."""
    return f"(call Select {EVENTS} (lambda (list e) (dict (list 'x') (list {body}))))"


def lambda_text(text: str) -> str:
    """Write a func_adl query whose lambda is a text, which qastle reads as Python."""
    return f"(call Select {EVENTS} {text!r})"


def np_call(name: str, *arguments: str) -> str:
    value = "np"
    for attribute in name.split("."):
        value = f"(attr {value} '{attribute}')"
    return column(f"(call {value} {' '.join(arguments)})")


def raw(**what: Any) -> str:
    return json.dumps([{"treename": "Events", **what}])


def expression(text: str) -> str:
    return raw(expressions=["MET_pt", text])


def cut(text: str) -> str:
    return raw(filter_name="MET_pt", cut=text)


SYSTEM = "(call (attr (call __import__ 'os') 'system') 'touch CANARY')"
BUILTINS = (
    *("__import__", "eval", "exec", "compile", "open", "getattr", "setattr", "globals", "vars"),
    *("input", "breakpoint", "help", "type", "print", "memoryview", "map", "filter", "iter"),
    *("format", "bytes", "range", "super", "object", "dir", "id", "hash", "exit", "str"),
    *("license", "__build_class__", "isinstance", "classmethod", "zip", "enumerate"),
)

FUNC_ADL = {
    # Attacks that once succeeded.
    "import in a call": column(SYSTEM),
    "np.testing.runstring": np_call("testing.runstring", repr(TOUCH), "(dict (list) (list))"),
    "np.f2py.os.system": np_call("f2py.os.system", "'touch CANARY'"),
    "np.save": np_call("save", "'CANARY'", "1"),
    # Other ways through modules.
    **{
        f"np.{name}": np_call(name, "'CANARY'")
        for name in (
            *("savetxt", "savez", "load", "loadtxt", "genfromtxt", "fromfile", "memmap"),
            *("DataSource", "lib.npyio.os.getcwd", "ctypeslib.load_library", "testing.measure"),
            *("vectorize", "frompyfunc", "fromfunction", "apply_along_axis", "piecewise", "info"),
            *("setbufsize", "seterrcall", "show_config", "random.seed", "zeros", "arange"),
            *("linspace", "tile", "repeat", "sqrt.reduce", "add.at", "sqrt.__class__", "dtype"),
            *("rec.fromfile", "ma.os", "core.numeric.sys", "array", "einsum", "sum", "where"),
        )
    },
    "np itself": column("np"),
    "a function of np as a value": column("(attr np 'sqrt')"),
    "a function out of a list": column("(call (subscript (list open) 0) 'CANARY' 'w')"),
    **{f"{name}()": column(f"(call {name} 'CANARY' 'w')") for name in BUILTINS},
    **{
        f"{module}.{name}": column(f"(call (attr {module} '{name}') 'CANARY')")
        for module, name in (
            *(("dak", "from_parquet"), ("dak", "to_parquet"), ("dak", "map_partitions")),
            *(("uproot", "open"), ("uproot", "recreate"), ("logging", "FileHandler")),
            *(("functools", "partial"), ("functools", "reduce"), ("vector", "obj")),
            *(("os", "system"), ("builtins", "open"), ("sys", "exit"), ("ak", "to_parquet")),
        )
    },
    "a builtin that is not called": column("eval"),
    "a variable that is not there": column("__builtins__"),
    # Attributes.
    "a format": column("(call (attr '{0.__class__.__init__.__globals__}' 'format') e)"),
    "a format of e": column("(call (attr '{0.dask}' 'format_map') (dict (list '0') (list e)))"),
    "a class": column("(attr e '__class__')"),
    "subclasses": column(
        "(call (attr (subscript (attr (attr (list) '__class__') '__mro__') 1) '__subclasses__'))"
    ),
    **{
        f"e.{name}": column(f"(attr e '{name}')")
        for name in ("dask", "layout", "behavior", "attrs", "_meta", "__dict__", "partitions")
    },
    **{
        f"e.{name}()": column(f"(call (attr (attr e 'MET_pt') '{name}') 'CANARY')")
        for name in (
            *("to_parquet", "visualize", "compute", "persist", "map_partitions", "to_delayed"),
            *("__reduce__", "__getattr__"),
        )
    },
    "items of a dict": column("(call (attr (dict (list 'a') (list e)) 'items'))"),
    "an attribute of a text": column("(attr 'a' 'join')"),
    "the module of vectors": column("(attr (attr e 'MET_pt') '__module__')"),
    # Variables with names that the translator uses.
    **{
        f"a variable {name}": f"(call Select {EVENTS} (lambda (list {name}) "
        f"(dict (list 'x') (list (subscript {name} 'MET_pt')))))"
        for name in ("dak", "np", "functools", "isinstance", "dict", "len", "type", "getattr")
    },
    # Texts that are read as Python.
    "a lambda with a default": lambda_text(f"lambda e, *, x={TOUCH}: {{'x': e.MET_pt}}"),
    "a lambda with a positional default": lambda_text(f"lambda e, x={TOUCH}: e.MET_pt"),
    "a lambda with more arguments": lambda_text("lambda e, *x: {'x': e.MET_pt}"),
    "a keyword": lambda_text(f"lambda e: {{'x': abs(e.MET_pt, key={TOUCH})}}"),
    "two stars": lambda_text("lambda e: {'x': abs(**e)}"),
    "a star": lambda_text("lambda e: {'x': abs(*[e.MET_pt])}"),
    "a walrus": lambda_text(f"lambda e: {{'x': (y := {TOUCH})}}"),
    "an f-string": lambda_text(f"lambda e: {{'x': f'{{{TOUCH}}}'}}"),
    "an await": lambda_text(f"lambda e: {{'x': await {TOUCH}}}"),
    "a yield": lambda_text(f"lambda e: {{'x': (yield {TOUCH})}}"),
    "a comprehension": lambda_text("lambda e: {'x': [y for y in [e.MET_pt]]}"),
    "a frame": lambda_text("lambda e: {'x': (1 for _ in [1]).gi_frame.f_globals}"),
    "a lambda as a value": lambda_text("lambda e: {'x': (lambda: 1)}"),
    "a statement": lambda_text("import os"),
    "a decorator": lambda_text(f"@{TOUCH}\ndef f(e): pass"),
    "a class statement": lambda_text(f"class A({TOUCH}): pass"),
    "a literal that ends early": column(f"'\\\\'+{TOUCH}.name#'"),
    "bytes": lambda_text("lambda e: {'x': b'a'}"),
    "an ellipsis": lambda_text("lambda e: {'x': ...}"),
    "a complex constant": lambda_text("lambda e: {'x': e.MET_pt * 1j}"),
    # Names that are no plain names.
    "a name that Python normalises": lambda_text(f"lambda e: {{'x': \uff45val('{1}')}}"),
    "an attribute that Python normalises": column("(call (attr np '\uff53ave') 'CANARY' 1)"),
    "an attribute that is code": column(f"(attr e 'MET_pt + {TOUCH}')"),
    "an attribute that ends": column(f"(attr e 'MET_pt]) + {TOUCH}#')"),
    "an attribute of two": column("(attr np 'testing.runstring')"),
    "an attribute with NUL": column("(attr e 'MET_pt\\x00')"),
    "an attribute of two lines": column("(attr e 'MET_pt\\n')"),
    "a keyword as an attribute": column("(attr e 'class')"),
    # Data sets.
    "a file that is code": column("(attr e 'x')").replace("'b.root'", SYSTEM),
    "a tree that is code": column("(attr e 'x')").replace("'Events'", SYSTEM),
    "two trees": f"(call Concat {EVENTS} (call EventDataset 'b.root' 'Runs'))",
    "no events": "(call __import__ 'os')",
    # Without end.
    "a tower of powers": column("(** 9 (** 9 (** 9 9)))"),
    "a long text": column("(* 'a' 1000000000)"),
    "a long list": column("(* (list 1) 1000000000)"),
    "a far shift": column("(<< 1 1000000000)"),
    "a huge number": column("9" * 60),
    "too many chosen": column("(call Choose (attr e 'Muon_pt') 1000000000)"),
    "a long query": column("(attr e '" + "x" * 300_000 + "')"),
    "deep arithmetic": column("(- " * 3000 + "1" + ")" * 3000),
    "deep lists": column("(list " * 400 + "1" + ")" * 400),
    "deep columns": column("(subscript " * 40 + "e" + " 0)" * 40),
    "deep texts": lambda_text("lambda e: " + "(" * 5000 + "e" + ")" * 5000),
}

RAW = {
    # Attacks that once succeeded.
    "a frame of a comprehension": cut(
        "[where(\"__import__('os').system('touch CANARY')\") for "
        "[(1 for [0][0] in [1])][0].gi_frame.f_globals['function']['where'] in "
        "[[(1 for [0][0] in [1])][0].gi_frame.f_builtins['eval']]]"
    ),
    "import in a cut": cut("__import__('os').system('touch CANARY')"),
    "import in an expression": expression("__import__('os').system('touch CANARY')"),
    "import in an alias": raw(expressions=["a"], aliases={"a": "__import__('os').getcwd()"}),
    "import in an alias that nobody reads": raw(aliases={"a": f"{TOUCH}.name"}),
    "import in an alias of an alias": raw(
        expressions=["a"], aliases={"a": "b + 1", "b": f"{TOUCH}.fileno()"}
    ),
    # Syntax.
    **{
        f"syntax: {text[:24]}": expression(text)
        for text in (
            *(
                "[x for x in [MET_pt]]",
                "(x for x in [MET_pt])",
                "{x for x in [1]}",
                "{1: 2 for x in [1]}",
            ),
            *("(lambda: MET_pt)()", "(lambda x=1: x)", f"(y := {TOUCH})", f"f'{{{TOUCH}}}'"),
            *("sqrt(*[MET_pt])", "sqrt(**{'x': MET_pt})", "[*MET_pt]", "{**MET_pt}", "MET_pt[*x]"),
            *("MET_pt if MET_pt else run", "MET_pt and run", "not MET_pt", "MET_pt in [1]"),
            *("MET_pt is run", "1 < MET_pt < 2", "MET_pt @ run", "...", "b'a'", "1j", "{1, 2}"),
            *(
                "(await MET_pt)",
                "(yield MET_pt)",
                "[MET_pt][0].a",
            ),
        )
    },
    **{
        f"statement: {text[:24]}": cut(text)
        for text in (
            *("import os", "from os import system", "x = 1", "x: int = 1", "del MET_pt", "pass"),
            *(f"MET_pt > 0; {TOUCH}", f"@{TOUCH}\ndef f(): pass", f"class A({TOUCH}): pass"),
            *(f"for x in {TOUCH}: pass", f"with {TOUCH}: pass", "global x", "", "# nothing"),
            *("async def f(): await x", "raise MET_pt", "assert MET_pt", "while 1: pass"),
        )
    },
    # Attributes and functions.
    **{
        f"reach: {text[:40]}": expression(text)
        for text in (
            *("MET_pt.__class__", "MET_pt.__class__.__mro__", "().__class__.__base__"),
            *("(MET_pt+0).tofile('CANARY')", "(MET_pt+0).to_list()", "(MET_pt+0).layout"),
            *(
                "get('MET_pt').behavior",
                "get('MET_pt').__class__",
                "'{0.__class__}'.format(MET_pt)",
            ),
            *("[where][0].__globals__", "sum.func.__globals__", "function['where'](1, 2, 3)"),
            *(
                "eval('1')",
                "\uff45val('1')",
                "open('CANARY', 'w')",
                "getattr(MET_pt, 'layout')",
                "print(1)",
            ),
            *(
                "to_parquet(MET_pt, 'CANARY')",
                "from_parquet('CANARY')",
                "__builtins__",
                "get.__self__",
            ),
            *(
                "scope()",
                "MET_pt()",
                "'a'()",
                "where(1)(2)",
                "[sqrt][0](MET_pt)",
                "sqrt.reduce(MET_pt)",
            ),
            *("sum(MET_pt, out=MET_pt)", "flatten(Muon_pt, highlevel=False)", "sqrt(1, dtype='O')"),
            *("where(MET_pt > 1, 1, 0, behavior={})", "sqrt(MET_pt, casting='unsafe')"),
            *("get(get('MET_pt'))", "get(name='MET_pt')", "get(*['MET_pt'])", "get(b'MET_pt')"),
            *("get('MET_pt', 'run')", "get('MET' + '_pt')", "get(f'MET_pt')", "get()", "\x00"),
        )
    },
    # Values of other types.
    **{
        f"type: {key}={value!r:.24}": raw(**{key: value})
        for key, value in (
            *(("cut", ["MET_pt > 0"]), ("cut", {"MET_pt": "run"}), ("cut", 5), ("cut", True)),
            *(
                ("expressions", {"MET_pt": "run"}),
                ("expressions", [["MET_pt"]]),
                ("expressions", 5),
            ),
            *(("expressions", [{"a": 1}]), ("expressions", [None]), ("aliases", ["MET_pt"])),
            *(("aliases", "MET_pt"), ("aliases", {"a": 5}), ("aliases", {"a": ["MET_pt"]})),
            *(("filter_name", 5), ("filter_name", {"a": 1}), ("filter_typename", [5])),
        )
    },
    # Without end.
    "a tower of powers": expression("9**9**9**9"),
    "a long text": expression("'a'*10**9"),
    "a long list": expression("[1]*10**9"),
    "a far shift": expression("1<<10**9"),
    "a huge number": expression("9" * 60),
    "a huge number for abs": expression("abs(" + "9" * 60 + ")"),
    "a long pad": expression("pad_none(MET_pt, 10000000000, axis=0)"),
    "a long pad that is calculated": expression("pad_none(MET_pt, 9**9, axis=0)"),
    "many combinations": expression("combinations(Muon_pt, 1000000000)"),
    "deep parentheses": cut("-" * 30_000 + "1"),
    "deep attributes": expression("a" + ".a" * 30_000),
    "a long query": expression("MET_pt+" * 50_000 + "1"),
    "a million laughs": raw(
        expressions=["a40"],
        aliases={
            "a0": "MET_pt",
            "b0": "MET_pt",
            **{f"a{i}": f"a{i - 1} + b{i - 1}" for i in range(1, 41)},
            **{f"b{i}": f"a{i - 1} - b{i - 1}" for i in range(1, 41)},
        },
    ),
    "deep JSON": "[" * 100_000,
}

# Texts that can be names of columns, and nothing else: a file without such a column has no result.
NAMES = {
    "a column that is code": ("uproot", column(f"(subscript e 'x\")+{TOUCH}+(\"')")),
    "a column of two lines": ("uproot", column("(subscript e 'x\\n__import__(1)')")),
    "a column with NUL": ("uproot", column("(subscript e 'x\\x00')")),
    "a method that writes": ("uproot", column("(call (attr (attr e 'MET_pt') 'tofile') 'CANARY')")),
    "a method of lists": ("uproot", column("(call (attr (attr e 'MET_pt') 'to_list'))")),
    "a method of a record": (
        "uproot",
        column("(call (lambda (list a) (call (attr a 'update') a)) (dict (list 'b') (list e)))"),
    ),
    "a column like a module": ("uproot", column("(attr (attr e 'os') 'system')")),
    "a key that is code": ("uproot", column("(attr e 'x')").replace("'x'", f"'{{{TOUCH}}}'", 1)),
    "get of code": ("uproot-raw", expression("get(\"__import__('os').system('touch CANARY')\")")),
    "get of a frame": ("uproot-raw", cut('get("(1 for _ in [1]).gi_frame")')),
    "a dotted name": ("uproot-raw", expression("MET_pt.layout")),
    "no Python": ("uproot-raw", expression(f"{TOUCH} where")),
    "an alias of code": (
        "uproot-raw",
        raw(expressions=[f"{TOUCH} x"], aliases={f"{TOUCH} x": "1"}),
    ),
}

# Numbers that are found to be too large only when the query is run, because they are variables.
CALCULATED = {
    "a power of a variable": column("(call (lambda (list a) (** a a)) 99999999)"),
    "pow": column("(call pow 9 (call int '999999999'))"),
    "np.power": column(f"(call (attr np 'power') 7 {2**70})"),
    "rounded": column("(call round 5 -1000000000)"),
    "a text that is made long": column("(% '%2000000000s' (subscript e 'Muon_pt'))"),
    "a doubled text": column("(call (lambda (list a) (+ a a)) 'aaaa')"),
    "a product of variables": column("(call (lambda (list a b) (* a b)) (list 1) 1000000000)"),
    "a sum of lists": column("(call sum (list (list 1) (list 2)) (list))"),
}
