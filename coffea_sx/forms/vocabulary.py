"""Allow-lists of the functions, names and methods of a query.

Only what is listed here is ever called for a query, and only attributes that are listed here, or
columns of the events, are read. Queries of func_adl_uproot are run as the Python expressions that
its translator writes, with functions of dask-awkward (awkward's stand in for them), numpy and
vector. Expressions of uproot-raw queries have the functions of uproot and, added by the server,
some of awkward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import awkward as ak
import numpy as np
import uproot

from ..errors import QueryError


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# -- func_adl_uproot

EVENTS = "EventDataset"
LIST_METHODS = "Select, Where, Count, Sum, Min, Max, First, Any and All"
# The most bits of a whole number. Columns have at most 64, and a query may name a number that does
# not fit its column.
FUNC_ADL_BITS = 128
LARGEST_CHOICE = 100

# Functions of dask-awkward that the translator calls, with the keywords that it gives.
DAK_FUNCTIONS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("all", "any", "combinations", "concatenate", "flatten"), _names("axis")),
    **dict.fromkeys(("max", "min", "num", "singletons", "sum"), _names("axis")),
    **dict.fromkeys(("unzip", "where", "with_name"), frozenset()),
    "argsort": _names("axis ascending"),
    "cartesian": _names("axis nested"),
    "full_like": _names("dtype"),
    "zip": _names("depth_limit"),
}
# dask-awkward has the ufuncs of numpy that give one array, and functions that are made of them;
# numpy's own do not take arrays of awkward.
_MADE_OF_UFUNCS: dict[str, Callable[[Any], Any]] = {
    "fix": lambda value: np.trunc(value),
    "isneginf": lambda value: np.logical_and(np.isinf(value), np.signbit(value)),
    "isposinf": lambda value: np.logical_and(np.isinf(value), ~np.signbit(value)),
}
_NUMBER_TYPES = _names("bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64")


def _is_ufunc(function: Any) -> bool:
    return isinstance(function, np.ufunc) and function.nout == 1


NP_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(np, name)
    for name in dir(np)
    if _is_ufunc(getattr(np, name)) or name in _NUMBER_TYPES
} | _MADE_OF_UFUNCS
NP_CONSTANTS: dict[str, float] = {
    name: getattr(np, name) for name in ("e", "euler_gamma", "inf", "nan", "pi")
}

VECTOR_PROPERTIES = _names("""
    x y z t t2 rho rho2 phi theta eta costheta cottheta mag mag2 tau tau2 beta gamma rapidity
    pseudorapidity px py pz pt pt2 p p2 E E2 e e2 energy energy2 M M2 m m2 mass mass2 Et Et2 et et2
    Mt Mt2 mt mt2 transverse_energy transverse_energy2 transverse_mass transverse_mass2
    neg2D neg3D neg4D
""")
_COORDINATES = _names("""
    xy rhophi pxpy ptphi xyz xytheta xyeta rhophiz rhophitheta rhophieta pxpypz pxpytheta pxpyeta
    ptphipz ptphitheta ptphieta xyzt xyztau xythetat xythetatau xyetat xyetatau rhophizt rhophiztau
    rhophithetat rhophithetatau rhophietat rhophietatau pxpypzenergy pxpypzmass pxpythetaenergy
    pxpythetamass pxpyetaenergy pxpyetamass ptphipzenergy ptphipzmass ptphithetaenergy
    ptphithetamass ptphietaenergy ptphietamass 2D 3D 4D Vector2D Vector3D Vector4D beta3
""")
VECTOR_METHODS = frozenset(f"to_{system}" for system in _COORDINATES) | _names("""
    add subtract scale scale2D scale3D scale4D unit dot cross deltaphi deltaeta deltaR deltaR2
    deltaangle deltaRapidityPhi deltaRapidityPhi2 rotateX rotateY rotateZ rotate_axis rotate_euler
    rotate_nautical rotate_quaternion boost boostX boostY boostZ boost_p4 boost_beta3 boostCM_of
    boostCM_of_p4 boostCM_of_beta3 equal not_equal isclose is_parallel is_antiparallel
    is_perpendicular is_timelike is_spacelike is_lightlike like
""")
# Attributes of collections that the translator itself reads.
COLLECTION_ATTRIBUTES = _names("fields ndim")
# Attributes of dask-awkward's collections that a query may not read: a server would read them where
# a column is meant.
HIDDEN_ATTRIBUTES = _names("""
    attrs behavior clear_divisions compute dask defined_divisions divisions dtype
    eager_compute_divisions form from_known head key keys keys_array known_divisions known_value
    layout map_partitions mask name npartitions partitions persist repartition reset_meta
    to_dask_array to_dask_bag to_delayed to_parquet type visualize
""")


def _round(value: Any, digits: Any = None) -> Any:
    if isinstance(digits, int) and abs(digits) > FUNC_ADL_BITS:
        raise QueryError(f"The query rounds to {digits} digits.")
    return round(value, digits)


# Python's own functions, `sum` without its second argument. `pow` is missing: it has the limits of
# the operator **.
BUILTINS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (abs, all, any, bool, complex, divmod, float, int, len, max, min, sorted)
} | {"round": _round, "sum": lambda values: sum(values)}
# Functions of Python that take columns.
BUILTINS_OF_COLUMNS = _names("abs getattr pow")
# Types that `isinstance` takes.
TYPES: dict[str, type] = {"dict": dict, "int": int, "slice": slice}
# Names in the expressions of the translator, which no variable may have.
RESERVED = _names("dak np functools getattr isinstance len type") | {EVENTS, *TYPES}


# -- uproot-raw

GETTER = "get"
# The most bits of a whole number: those of the columns that numbers become.
RAW_BITS = 64
# Functions that make as many entries as their second argument says, and the most that they make.
SIZED_FUNCTIONS = _names("argcombinations combinations pad_none")
LARGEST_SIZE = 1000
RAW_KEYWORDS = _names("""
    array arrays axis ascending atol clip counts ddof decimals depth_limit equal_nan fields initial
    keepdims lsb_order mask mask_identity mergebool n nested replacement rtol stable target
    valid_when value weight
""")
# Functions of awkward that the server adds: with axis=1 in place of awkward's default, and as is.
_PER_EVENT = _names("""
    all any argmax argmin concatenate count count_nonzero max mean min moment nanargmax nanargmin
    nanmax nanmean nanmin nanprod nanstd nansum nanvar prod softmax std sum var
""")
_UNCHANGED = _names("""
    almost_equal argcartesian argcombinations argsort broadcast_arrays broadcast_fields cartesian
    combinations drop_none fill_none firsts flatten is_none isclose mask num pad_none singletons
    sort where
""")


def raw_functions(*, standard_axis: bool = False) -> dict[str, Callable[..., Any]]:
    """Return the functions of uproot-raw queries by name.

    Parameters
    ----------
    standard_axis : bool
        Keep awkward's own default of ``axis``, in place of the axis of the lists in each event.
    """
    functions = dict(uproot.language.python.PythonLanguage.default_functions)
    functions |= {name: getattr(ak, name) for name in _PER_EVENT | _UNCHANGED}
    if not standard_axis:
        functions |= {name: partial(functions[name], axis=1) for name in _PER_EVENT}
        functions["flatten"] = partial(ak.flatten, axis=2)
    return functions
