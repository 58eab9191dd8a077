"""The form of an xAOD query has the types of the C++ that the translator declares."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from awkward.forms import from_dict
from servicex import query as q

from coffea_sx.errors import ConfigurationError, QueryError
from coffea_sx.forms.xaod import is_xaod, xaod_forms
from coffea_sx.query import Selection, select

pytest.importorskip("func_adl_xAOD", reason="xAOD queries are translated by func_adl_xAOD")

# Branches that ROOT 6.40 wrote for members of these C++ types, as uproot read them: type, type
# name, and letter in the title.
READ = {
    "bool": ("bool", "bool", "O"),
    "char": ("int8", "int8_t", "B"),
    "unsigned char": ("uint8", "uint8_t", "b"),
    "uint8_t": ("uint8", "uint8_t", "b"),
    "short": ("int16", "int16_t", "S"),
    "int16_t": ("int16", "int16_t", "S"),
    "unsigned short": ("uint16", "uint16_t", "s"),
    "uint16_t": ("uint16", "uint16_t", "s"),
    "int": ("int32", "int32_t", "I"),
    "int32_t": ("int32", "int32_t", "I"),
    "unsigned int": ("uint32", "uint32_t", "i"),
    "uint": ("uint32", "uint32_t", "i"),
    "uint32_t": ("uint32", "uint32_t", "i"),
    "long": ("int64", "int64_t", "G"),
    "int64_t": ("int64", "int64_t", "G"),
    "unsigned long": ("uint64", "uint64_t", "g"),
    "uint64_t": ("uint64", "uint64_t", "g"),
    "size_t": ("uint64", "uint64_t", "g"),
    "long long": ("int64", "int64_t", "L"),
    "unsigned long long": ("uint64", "uint64_t", "l"),
    "ULong64_t": ("uint64", "uint64_t", "l"),
    "float": ("float32", "float", "F"),
    "Float_t": ("float32", "float", "F"),
    "double": ("float64", "double", "D"),
}


def atlas21():
    return q.FuncADL_ATLASr21()


def atlas22():
    return q.FuncADL_ATLASr22()


def atlas():
    return q.FuncADL_ATLASxAOD()


def cms():
    return q.FuncADL_CMS()


def returns(method, cpp, type_string="xAOD::Jet"):
    """Describe a method by hand."""
    return {
        "metadata_type": "add_method_type_info",
        "type_string": type_string,
        "method_name": method,
        "return_type": cpp,
    }


PHOTONS = {
    "metadata_type": "add_atlas_event_collection_info",
    "name": "Photons",
    "include_files": ["xAODEgamma/PhotonContainer.h"],
    "container_type": "xAOD::PhotonContainer",
    "element_type": "xAOD::Photon",
    "contains_collection": True,
    "link_libraries": ["xAODEgamma"],
}

UNTYPED = {
    "one value per event": (
        atlas21().Select(lambda e: e.EventInfo("EventInfo").runNumber()),
        {"col1": "double"},
    ),
    "one list per event": (
        atlas22().Select(lambda e: e.Jets("AnalysisJets").Select(lambda j: j.pt() / 1000.0)),
        {"col1": "std::vector<double>"},
    ),
    "one value per jet": (
        atlas22().SelectMany(lambda e: e.Jets("AnalysisJets")).Select(lambda j: j.eta()),
        {"col1": "double"},
    ),
    "tuple": (
        atlas().Select(
            lambda e: (
                e.Jets("AnalysisJets").Select(lambda j: j.pt()),
                e.EventInfo("EventInfo").runNumber(),
                e.Jets("AnalysisJets").Count(),
            )
        ),
        {"col0": "std::vector<double>", "col1": "double", "col2": "int"},
    ),
    "tuple of each jet": (
        atlas21()
        .SelectMany(lambda e: e.Jets("AnalysisJets"))
        .Select(lambda j: (j.pt(), j.pt() > 30000)),
        {"col0": "double", "col1": "bool"},
    ),
    "names in their order": (
        atlas22().Select(
            lambda e: {
                "zeta": e.Jets("AnalysisJets").Select(lambda j: j.eta()),
                "alpha": e.Jets("AnalysisJets").Select(lambda j: j.pt()),
            }
        ),
        {"zeta": "std::vector<double>", "alpha": "std::vector<double>"},
    ),
    "count": (
        atlas22().Select(lambda e: {"n": e.Jets("AnalysisJets").Count()}),
        {"n": "int"},
    ),
    "sum of a guess": (
        atlas22().Select(lambda e: {"ht": e.Jets("J").Select(lambda j: j.pt()).Sum()}),
        {"ht": "double"},
    ),
    "sum of a float": (
        atlas22()
        .MetaData(returns("pt", "float"))
        .Select(lambda e: {"ht": e.Jets("J").Select(lambda j: j.pt()).Sum()}),
        {"ht": "float"},
    ),
    "sum of ones": (
        atlas22().Select(lambda e: {"n": e.Jets("AnalysisJets").Select(lambda j: 1).Sum()}),
        {"n": "int"},
    ),
    "largest": (
        atlas21().Select(lambda e: {"pt": e.Jets("AnalysisJets").Select(lambda j: j.pt()).Max()}),
        {"pt": "double"},
    ),
    "first": (
        atlas22().Select(lambda e: {"pt": e.Jets("AnalysisJets").First().pt()}),
        {"pt": "double"},
    ),
    "first of a float": (
        atlas22()
        .MetaData(returns("pt", "float"))
        .Select(lambda e: {"pt": e.Jets("AnalysisJets").Select(lambda j: j.pt()).First()}),
        {"pt": "float"},
    ),
    "where": (
        atlas22()
        .Where(lambda e: e.Jets("AnalysisJets").Count() > 1)
        .Select(
            lambda e: {
                "pt": e.Jets("AnalysisJets")
                .Where(lambda j: j.pt() > 30000)
                .Select(lambda j: j.pt())
            }
        ),
        {"pt": "std::vector<double>"},
    ),
    "list of lists": (
        atlas22().Select(
            lambda e: {
                "eta": e.Jets("J").Select(
                    lambda j: e.Electrons("E").Select(lambda x: x.eta() - j.eta())
                )
            }
        ),
        {"eta": "std::vector<std::vector<double>>"},
    ),
    "list of lists of floats": (
        atlas22()
        .MetaData(returns("eta", "float", "xAOD::Electron"))
        .Select(
            lambda e: {
                "eta": e.Jets("J").Select(lambda j: e.Electrons("E").Select(lambda x: x.eta()))
            }
        ),
        {"eta": "std::vector<std::vector<float>>"},
    ),
    "attributes": (
        atlas21().Select(
            lambda e: {
                "one": e.Jets("J").Select(lambda j: j.getAttributeFloat("jvt")),
                "many": e.Jets("J").Select(lambda j: j.getAttributeVectorFloat("tracks")),
            }
        ),
        {"one": "std::vector<float>", "many": "std::vector<std::vector<double>>"},
    ),
    "function": (
        atlas22().Select(lambda e: e.Jets("J").Select(lambda j: sin(j.phi()))),  # noqa: F821
        {"col1": "std::vector<double>"},
    ),
    "described float": (
        atlas22()
        .MetaData(returns("width", "float"))
        .Select(lambda e: {"w": e.Jets("J").Select(lambda j: j.width())}),
        {"w": "std::vector<float>"},
    ),
    "one described, one guessed": (
        atlas22()
        .MetaData(returns("n", "unsigned int"))
        .Select(
            lambda e: {
                "n": e.Jets("J").Select(lambda j: j.n()),
                "pt": e.Jets("J").Select(lambda j: j.pt()),
            }
        ),
        {"n": "std::vector<unsigned int>", "pt": "std::vector<double>"},
    ),
    "described collection": (
        atlas22()
        .MetaData(PHOTONS)
        .Select(lambda e: {"pt": e.Photons("Photons").Select(lambda p: p.pt())}),
        {"pt": "std::vector<double>"},
    ),
    "arithmetic of ints": (
        atlas22()
        .MetaData(returns("n", "int"))
        .Select(
            lambda e: {
                "sum": e.Jets("J").Select(lambda j: j.n() + 1),
                "ratio": e.Jets("J").Select(lambda j: j.n() / 2),
                "mixed": e.Jets("J").Select(lambda j: j.n() * 1.5),
                "power": e.Jets("J").Select(lambda j: j.n() ** 2),
            }
        ),
        {
            "sum": "std::vector<int>",
            "ratio": "std::vector<double>",
            "mixed": "std::vector<double>",
            "power": "std::vector<double>",
        },
    ),
    "choice and constants": (
        atlas22().Select(
            lambda e: {
                "choice": 1 if e.Jets("J").Count() > 2 else 0,
                "both": e.Jets("J").Count() > 2 and e.Jets("J").Count() < 5,
                "one": 1,
                "half": 0.5,
            }
        ),
        {"choice": "double", "both": "bool", "one": "int", "half": "double"},
    ),
    "CMS value": (
        cms().Select(lambda e: {"n": e.Muons("muons").Count()}),
        {"n": "int"},
    ),
    "CMS lists": (
        cms().Select(
            lambda e: {
                "pt": e.Muons("muons").Select(lambda m: m.pt()),
                "pf": e.Muons("muons").Select(lambda m: m.isPFMuon()),
            }
        ),
        {"pt": "std::vector<double>", "pf": "std::vector<bool>"},
    ),
    "CMS of each electron": (
        cms().SelectMany(lambda e: e.GsfElectrons("gsfElectrons")).Select(lambda x: x.isEB()),
        {"col1": "bool"},
    ),
    "CMS tuple": (
        cms().Select(
            lambda e: (
                e.Tracks("generalTracks").Select(lambda t: t.charge()),
                e.Vertex("offlinePrimaryVertices").Count(),
            )
        ),
        {"col0": "std::vector<double>", "col1": "int"},
    ),
    "CMS list of lists": (
        cms().Select(
            lambda e: e.Muons("muons").Select(
                lambda m: e.Tracks("generalTracks").Select(lambda t: t.pt() > m.pt())
            )
        ),
        {"col1": "std::vector<std::vector<bool>>"},
    ),
}


# The same for every release whose typed package is installed. A package's queries start at Event.
RELEASES = {
    "atlasr21": "func_adl_servicex_xaodr21",
    "atlasr22": "func_adl_servicex_xaodr22",
    "atlasr25": "func_adl_servicex_xaodr25",
}


def typed_jets(events):
    return events.Select(
        lambda e: {
            "pt": e.Jets("AnalysisJets", calibrate=False).Select(lambda j: j.pt() / 1000.0),
            "px": e.Jets("AnalysisJets", calibrate=False).Select(lambda j: j.px()),
            "n": e.Jets("AnalysisJets", calibrate=False).Count(),
        }
    )


def typed_calibrated(events):
    return events.SelectMany(lambda e: e.Jets()).Select(lambda j: (j.pt(), j.px()))


def typed_event(events):
    return events.Select(
        lambda e: {
            "run": e.EventInfo("EventInfo").runNumber(),
            "mu": e.EventInfo("EventInfo").averageInteractionsPerCrossing(),
            "weights": e.EventInfo("EventInfo").mcEventWeights().Select(lambda w: w * 2),
        }
    )


def typed_object(events):
    return events.Select(
        lambda e: e.Jets("AnalysisJets", calibrate=False).Select(lambda j: j.p4().Pt())
    )


def typed_first(events):
    return events.Select(
        lambda e: {
            "px": e.Jets("AnalysisJets", calibrate=False).First().px(),
            "ht": e.Jets("AnalysisJets", calibrate=False).Select(lambda j: j.px()).Sum(),
        }
    )


def typed_nested(events):
    return events.Select(
        lambda e: e.Jets("AnalysisJets", calibrate=False).Select(
            lambda j: e.Muons("Muons", calibrate=False).Select(lambda m: m.pt() > j.pt())
        )
    )


def typed_event_number(events):
    return events.Select(lambda e: e.EventInfo("EventInfo").eventNumber())


TYPED = [
    (typed_jets, {"pt": "std::vector<double>", "px": "std::vector<float>", "n": "int"}),
    (typed_calibrated, {"col0": "double", "col1": "float"}),
    (typed_event, {"run": "unsigned int", "mu": "float", "weights": "std::vector<float>"}),
    (typed_object, {"col1": "std::vector<double>"}),
    (typed_first, {"px": "float", "ht": "float"}),
    (typed_nested, {"col1": "std::vector<std::vector<bool>>"}),
]


def typed(codegen):
    """Start a typed query of a release."""
    package = pytest.importorskip(
        RELEASES[codegen], reason=f"typed {codegen} queries come from a package of their own"
    )
    return package.FuncADLQuery()


def declared(selection: Selection, directory) -> tuple[str, str, dict[str, str]]:
    """Read the tree, its title and the types of its branches from the C++ of the translator."""
    import qastle

    backend = "cms.aod" if selection.codegen == "cms" else "atlas.xaod"
    module = importlib.import_module(f"func_adl_xAOD.{backend}.executor")
    executor = getattr(module, f"{backend.replace('.', '_')}_executor")()
    tree = qastle.text_ast_to_python_ast(selection.text).body[0].value
    executor.write_cpp_files(executor.apply_ast_transformations(tree), directory)
    sources = ["Analyzer.cc"] if selection.codegen == "cms" else ["query.h", "query.cxx"]
    code = "\n".join((directory / source).read_text() for source in sources)
    members = {m[2]: m[1] for m in re.finditer(r"^ *(\S.*) (_\w+);", code, re.MULTILINE)}
    branches = re.findall(r'Branch\("(\w+)", &(\w+)\)', code)
    name, title = re.search(r'TTree(?:>| )\("(\w+)", "([^"]*)"\)', code).groups()
    return name, title, {branch: members[member] for branch, member in branches}


def read(name, cpp):
    """Return the type, the title and the type name that uproot reads from a branch."""
    inner, depth = cpp, 0
    while match := re.fullmatch("std::vector<(.+)>", inner):
        inner, depth = match[1], depth + 1
    kind, typename, letter = READ[inner]
    for _ in range(depth):
        typename = f"std::vector<{typename}>"
    return "var * " * depth + kind, name if depth else f"{name}/{letter}", typename


def described(form):
    """Return the same of each column of a derived form."""
    columns = {}
    for name, content in zip(form.fields, form.contents, strict=True):
        bare = content.copy(parameters=None)
        parameters = content.parameters
        columns[name] = (str(bare.type), parameters["__doc__"], parameters["typename"])
        assert set(parameters) == {"__doc__", "typename"}
    return columns


def xaod_form(selection: Selection):
    """Return the form of the only tree."""
    (form,) = xaod_forms(selection).values()
    return form


def assert_as_declared(selection, expected, directory):
    form = xaod_form(selection)
    tree, title, types = declared(selection, directory)
    assert types == expected
    assert form.fields == list(types)
    assert described(form) == {name: read(name, cpp) for name, cpp in types.items()}
    assert list(xaod_forms(selection)) == [tree]
    assert form.parameters == {
        "__doc__": title,
        "typenames": {name: read(name, cpp)[2] for name, cpp in types.items()},
    }
    assert from_dict(form.to_dict()) == form


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", UNTYPED)
def test_untyped(name, tmp_path):
    query, expected = UNTYPED[name]
    assert_as_declared(select(query), expected, tmp_path)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("codegen", RELEASES)
@pytest.mark.parametrize(("query", "expected"), TYPED, ids=lambda x: getattr(x, "__name__", ""))
def test_typed(codegen, query, expected, tmp_path):
    selection = select(query(typed(codegen)))
    assert selection.codegen == codegen
    assert_as_declared(selection, expected, tmp_path)


@pytest.mark.parametrize(
    ("codegen", "cpp"),
    [
        ("atlasr21", "unsigned long long"),
        ("atlasr22", "unsigned long long"),
        ("atlasr25", "uint64_t"),
    ],
)
def test_typed_packages_differ(codegen, cpp, tmp_path):
    assert_as_declared(select(typed_event_number(typed(codegen))), {"col1": cpp}, tmp_path)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("cpp", READ)
def test_every_type(cpp, tmp_path):
    query = (
        atlas22()
        .MetaData(returns("x", cpp))
        .Select(
            lambda e: {
                "one": e.Jets("J").First().x(),
                "many": e.Jets("J").Select(lambda j: j.x()),
                "lists": e.Jets("J").Select(lambda j: e.Jets("K").Select(lambda k: k.x())),
            }
        )
    )
    vector = f"std::vector<{cpp}>"
    expected = {"one": cpp, "many": vector, "lists": f"std::vector<{vector}>"}
    assert_as_declared(select(query), expected, tmp_path)


@pytest.mark.parametrize("cpp", ["string", "std::string"])
def test_text(cpp):
    query = (
        atlas22()
        .MetaData(returns("x", cpp))
        .Select(lambda e: (e.Jets("J").First().x(), e.Jets("J").Select(lambda j: j.x())))
    )
    form = xaod_form(select(query))
    assert form.parameters["typenames"] == {
        "col0": "std::string",
        "col1": "std::vector<std::string>",
    }
    assert str(form.content("col1").copy(parameters=None).type) == "var * string"


def test_own_tree_and_names(tmp_path):
    text = (
        "(call ResultTTree (call Select (call EventDataset) (lambda (list e) (list (call (attr "
        "(call (attr e 'Jets') 'J') 'Count'))))) (list 'n') 'mine' 'file.root')"
    )
    selection = select(text, codegen="atlasr22")
    assert_as_declared(selection, {"n": "int"}, tmp_path)
    assert list(xaod_forms(selection)) == ["mine"]


@pytest.mark.parametrize(
    ("codegen", "tree"),
    [
        ("atlasr21", "atlas_xaod_tree"),
        ("atlasxaod", "atlas_xaod_tree"),
        ("atlasr25", "atlas_xaod_tree"),
        ("cms", "cms_aod_tree"),
        ("cmssw-5-3-32", "cms_aod_tree"),
        ("cms-miniaod", "cms_miniaod_tree"),
    ],
)
def test_tree_of_a_code_generator(codegen, tree):
    selection = select(q.FuncADL_CMS().Select(lambda e: e.Muons("muons").Count()), codegen=codegen)
    assert is_xaod(selection)
    assert list(xaod_forms(selection)) == [tree]


@pytest.mark.parametrize("codegen", ["uproot", "uproot-raw", "python", "topcp"])
def test_other_code_generators(codegen):
    selection = Selection("", codegen, "root-file", None, "")
    assert not is_xaod(selection)
    with pytest.raises(QueryError, match=codegen):
        xaod_form(selection)


@pytest.mark.parametrize("codegen", RELEASES)
def test_a_method_of_a_typed_query_without_a_declared_type(codegen):
    events = typed(codegen)
    plain = events.Select(lambda e: e.Jets("J", calibrate=False).Select(lambda j: j.ptt()))
    with pytest.raises(QueryError, match=r"xAOD::Jet_v1::ptt .*double"):
        xaod_form(select(plain))
    cut = events.Select(
        lambda e: (
            e.Jets("J", calibrate=False).Where(lambda j: j.good() > 1).Select(lambda j: j.pt())
        )
    )
    with pytest.raises(QueryError, match="xAOD::Jet_v1::good"):
        xaod_form(select(cut))
    inner = events.Select(lambda e: e.EventInfo("EventInfo").run())
    with pytest.raises(QueryError, match="xAOD::EventInfo_v1::run "):
        xaod_form(select(inner))


@pytest.mark.parametrize("codegen", RELEASES)
def test_a_method_that_is_declared_to_a_typed_query(codegen):
    query = (
        typed(codegen)
        .MetaData(returns("ptt", "float", "xAOD::Jet_v1"))
        .Select(lambda e: e.Jets("J", calibrate=False).Select(lambda j: j.ptt()))
    )
    assert described(xaod_form(select(query))) == {"col1": read("col1", "std::vector<float>")}


@pytest.mark.parametrize("codegen", RELEASES)
def test_an_object_is_no_column(codegen):
    jets = typed(codegen).SelectMany(lambda e: e.Jets("J", calibrate=False))
    with pytest.raises(QueryError, match=r"'p' has the C\+\+ type TLorentzVector"):
        xaod_form(select(jets.Select(lambda j: {"p": j.p4()})))
    with pytest.raises(QueryError, match=r"'t' has the C\+\+ type .*ObjectType"):
        xaod_form(select(jets.Select(lambda j: {"t": j.type()})))


@pytest.mark.parametrize(
    "cpp", ["signed char", "int8_t", "const char *", "xAOD::Vertex *", "std::map<int, int>", "U"]
)
def test_types_that_root_does_not_write(cpp):
    query = (
        atlas22().MetaData(returns("x", cpp)).Select(lambda e: e.Jets("J").Select(lambda j: j.x()))
    )
    with pytest.raises(QueryError, match="'col1' has the C"):
        xaod_form(select(query))


@pytest.mark.parametrize(
    "query",
    [
        atlas22(),
        atlas22().Select(lambda e: e.Jets("J")),
        atlas22().Select(lambda e: e.Jets("J", "K").Count()),
        atlas22().Select(lambda e: e.Jets("J").Select(lambda j: j.getAttribute("x"))),
        atlas22().Select(lambda e: e.Jets("J").Select(lambda j: j.pt().x())),
        atlas22().MetaData({"metadata_type": "x"}).Select(lambda e: e.Jets("J").Count()),
        cms().Select(lambda e: e.Muons("muons").Select(lambda m: unknown(m))),  # noqa: F821
        "(call Select (call EventDataset",
        "",
    ],
    ids=range(9),
)
def test_queries_that_cannot_be_translated(query):
    text, codegen = query if isinstance(query, str) else None, "atlasr22"
    selection = select(text if text is not None else query, codegen=codegen)
    with pytest.raises(QueryError, match="cannot translate the query for 'atlasr22'"):
        xaod_form(selection)


@pytest.mark.parametrize("name", ["jet pt", "jet.pt", "pt[2]", "", "é"])
def test_columns_are_variables(name):
    text = select(atlas22().Select(lambda e: {"NAME": e.Jets("J").Count()})).text
    with pytest.raises(QueryError, match="letters, digits and underscores"):
        xaod_form(select(text.replace("NAME", name), codegen="atlasr22"))


def test_columns_have_different_names():
    text = (
        "(call ResultTTree (call Select (call EventDataset) (lambda (list e) (list 1 2)))"
        " (list 'n' 'n') 'mine' 'file.root')"
    )
    with pytest.raises(QueryError, match="same name"):
        xaod_form(select(text, codegen="atlasr22"))


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", UNTYPED)
def test_parquet_is_the_same_converted(name):
    selection = select(UNTYPED[name][0])
    tree = xaod_form(selection)
    trees = xaod_forms(dataclasses.replace(selection, result_format="parquet"))
    assert list(trees) == [""]
    parquet = trees[""]
    assert parquet.fields == tree.fields
    types = {column: kind for column, (kind, _, _) in described(parquet).items()}
    assert types == {column: kind for column, (kind, _, _) in described(tree).items()}


def test_other_formats():
    selection = select(UNTYPED["count"][0])
    with pytest.raises(QueryError, match="form="):
        xaod_form(dataclasses.replace(selection, result_format="root-rntuple"))


def test_one_query_leaves_nothing_for_the_next():
    described_pt = select(UNTYPED["first of a float"][0])
    guessed_pt = select(UNTYPED["first"][0])
    failing = atlas22().MetaData(returns("pt", "float")).Select(lambda e: e.Jets("J"))
    assert described(xaod_form(described_pt))["pt"][0] == "float32"
    assert described(xaod_form(guessed_pt))["pt"][0] == "float64"
    with pytest.raises(QueryError):
        xaod_form(select(failing))
    assert described(xaod_form(guessed_pt))["pt"][0] == "float64"


@pytest.mark.slow
def test_threads():
    selections = [select(query) for query, _ in UNTYPED.values()]
    alone = [xaod_form(selection) for selection in selections]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(xaod_form, selections)) == alone


def test_without_the_translator(monkeypatch):
    selection = select(UNTYPED["count"][0])
    monkeypatch.setitem(sys.modules, "func_adl_xAOD.atlas.xaod.executor", None)
    with pytest.raises(ConfigurationError, match=r"pip install .coffea_sx\[xaod\]"):
        xaod_form(selection)
