"""Queries of func-adl-servicex are queries, and servicex is left as it was."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import dask
import pytest
from coffea.nanoevents import NanoEventsFactory
from servicex import query as sx_query
from support.paces import FAST

from coffea_sx import compat
from coffea_sx.compat import ServiceXSourceCMSRun1AOD, ServiceXSourceUpROOT, ServiceXSourceXAOD
from coffea_sx.demo.analysis import DimuonProcessor, SelectionSchema, dimuon_query
from coffea_sx.errors import QueryError
from coffea_sx.forms import derive_form
from coffea_sx.query import select

# What could have been touched, to be compared before and after.
STATE = """
import importlib, sys, servicex, coffea_sx
def state():
    modules = {n: id(m) for n, m in sys.modules.items() if n.partition(".")[0] == "servicex"}
    return modules, {n: id(v) for n, v in vars(servicex).items()}
def missing():
    try:
        importlib.import_module("servicex.utils")
    except ModuleNotFoundError:
        return not hasattr(servicex, "ServiceXDataset")
before = state()
"""


def fresh(code: str) -> str:
    """Run code in a new interpreter, and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", STATE + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def uproot_source() -> Any:
    return ServiceXSourceUpROOT("any_dataset", "Events")


def dimuons() -> Any:
    """Return the demo's query, in the older interface."""
    return (
        uproot_source()
        .Where(lambda event: event["nMuon"] >= 2)
        .Select(
            lambda event: {
                "run": event["run"],
                "luminosityBlock": event["luminosityBlock"],
                "event": event["event"],
                "Muon_pt": event["Muon_pt"],
                "Muon_eta": event["Muon_eta"],
                "Muon_phi": event["Muon_phi"],
                "Muon_mass": event["Muon_mass"],
                "Muon_charge": event["Muon_charge"],
                "nJet": event["nJet"],
                "Jet_pt": event["Jet_pt"],
                "Jet_eta": event["Jet_eta"],
                "Jet_phi": event["Jet_phi"],
                "Jet_mass": event["Jet_mass"],
            }
        )
    )


def pair(source: Any) -> Any:
    return source.Select(lambda e: (e["MET_pt"], e["Jet_pt"]))


# -- servicex is not changed


def test_importing_does_nothing():
    output = fresh(
        "import coffea_sx.compat\n"
        "print(state() == before, missing(), 'func_adl_servicex' in sys.modules)"
    )
    assert output.split() == ["True", "True", "False"]


def test_servicex_is_as_it_was():
    output = fresh(
        "from coffea_sx.compat import ServiceXSourceUpROOT, ServiceXSourceXAOD\n"
        "print(state() == before, missing(), 'func_adl_servicex' in sys.modules)"
    )
    assert output.split() == ["True", "True", "True"]


@pytest.mark.slow
def test_names_that_are_there_are_kept():
    output = fresh(
        "import types\n"
        "servicex.ServiceXDataset, utils = mine = object(), types.ModuleType('servicex.utils')\n"
        "sys.modules['servicex.utils'] = utils\n"
        "from coffea_sx.compat import ServiceXSourceUpROOT\n"
        "print((servicex.ServiceXDataset, sys.modules['servicex.utils']) == mine)"
    )
    assert output.split() == ["True"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("error", ["ModuleNotFoundError", "ImportError"])
def test_servicex_is_as_it_was_when_the_package_cannot_be_imported(error):
    output = fresh(
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'func_adl_servicex':\n"
        f"            raise {error}('not today')\n"
        "sys.meta_path.insert(0, Finder)\n"
        "try:\n"
        "    from coffea_sx.compat import ServiceXSourceXAOD\n"
        "except coffea_sx.errors.ConfigurationError as error:\n"
        "    print(state() == before, missing(), error)"
    )
    assert output.startswith("True True ServiceXSourceXAOD is of func-adl-servicex")
    assert "not today" in output
    assert 'pip install "func-adl-servicex' in output


@pytest.mark.slow
def test_threads_get_the_same_sources():
    output = fresh(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from coffea_sx import compat\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    got = set(pool.map(lambda _: compat.ServiceXSourceUpROOT, range(32)))\n"
        "print(state() == before, len(got))"
    )
    assert output.split() == ["True", "1"]


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = compat.Nothing


# -- what a source writes


def test_a_query_reads_as_one_of_servicex():
    assert select(dimuons()) == select(dimuon_query())
    assert select(dimuons()).tree == "Events"


def test_sources_are_those_of_the_package():
    import func_adl_servicex

    assert isinstance(dimuons(), func_adl_servicex.ServiceXSourceUpROOT)
    assert isinstance(dimuons(), ServiceXSourceUpROOT)
    assert ServiceXSourceUpROOT.__module__ == "coffea_sx.compat"


@pytest.mark.parametrize(
    ("source", "options", "codegen"),
    [
        (ServiceXSourceXAOD, {}, "atlasr21"),
        (ServiceXSourceXAOD, {"backend": "atlasr22"}, "atlasr22"),
        (ServiceXSourceXAOD, {"backend": "my-endpoint"}, "atlasr21"),
        (ServiceXSourceCMSRun1AOD, {}, "cms"),
    ],
)
def test_sources_have_code_generators(source, options, codegen):
    query = source("any_dataset", **options).Select(lambda e: e.Muons("muons").Count())
    assert query.default_codegen == codegen
    assert select(query).codegen == codegen
    assert "(call EventDataset 'bogus.root')" in select(query).text


def test_a_source_takes_a_dataset_of_servicex():
    from servicex import dataset

    query = ServiceXSourceUpROOT(dataset.Rucio("user.me:data"), "Events")
    assert query.default_codegen == "uproot"
    assert select(query).text == "(call EventDataset 'bogus.root' 'Events')"


# -- endings


@pytest.mark.parametrize(
    "end",
    [
        lambda q: q.AsAwkwardArray(["met", "jet"]),
        lambda q: q.as_awkward(columns=("met", "jet")),
        lambda q: q.AsPandasDF(["met", "jet"]),
        lambda q: q.AsParquetFiles("f.parquet", ["met", "jet"]),
        lambda q: q.as_ROOT_tree("f.root", "tree", ["met", "jet"]),
    ],
)
def test_endings_name_columns(end, nano_files):
    delivered = derive_form(end(pair(uproot_source())), {nano_files[0]: "Events"})
    assert [c for c in delivered.columns if c not in delivered.counters] == ["met", "jet"]


def test_endings_name_a_single_column():
    ended = uproot_source().Select(lambda e: e["MET_pt"]).AsAwkwardArray("met")
    assert "(dict (list 'met') (list x))" in select(ended).text


@pytest.mark.parametrize("end", ["AsAwkwardArray", "AsPandasDF", "as_awkward", "as_pandas"])
def test_endings_without_names_do_nothing(end):
    assert select(getattr(dimuons(), end)()) == select(dimuons())


def test_a_query_is_not_run():
    for query in (dimuons(), dimuons().AsAwkwardArray()):
        with pytest.raises(QueryError, match="from_servicex"):
            asyncio.run(query.value_async())


def test_qastle_is_returned_to_those_who_want_only_that():
    source = uproot_source()
    source.return_qastle = True
    query = source.Select(lambda e: {"met": e["MET_pt"]}).AsAwkwardArray()
    assert asyncio.run(query.value_async()) == select(query).text


# -- on a server


def test_events_equal_those_of_servicex_3(servicex, nano_files):
    mass = []
    for query in (dimuons(), dimuons().AsROOTTTree("f.root", "tree"), dimuon_query()):
        events = NanoEventsFactory.from_servicex(
            query,
            nano_files[:3],
            url=servicex.url,
            schemaclass=SelectionSchema,
            ignore_cache=True,
            pace=FAST,
        ).events()
        (made,) = dask.compute(DimuonProcessor().process(events), scheduler="synchronous")
        mass.append(made["mass"])
    assert mass[0].sum() > 0
    assert mass[0] == mass[1] == mass[2]


# -- C++


def jets(source: Any) -> Any:
    return source.Select(
        lambda e: {"jet_pt": e.Jets("AntiKt4EMTopoJets").Select(lambda jet: jet.pt())}
    )


def muons(source: Any) -> Any:
    return source.Select(lambda e: {"muon_pt": e.Muons("muons").Select(lambda muon: muon.pt())})


@pytest.mark.parametrize(
    ("query", "same"),
    [
        (lambda: jets(ServiceXSourceXAOD("d")), lambda: jets(sx_query.FuncADL_ATLASr21())),
        (lambda: muons(ServiceXSourceCMSRun1AOD("d")), lambda: muons(sx_query.FuncADL_CMS())),
    ],
)
def test_the_translator_takes_queries_of_cpp_sources(query, same):
    pytest.importorskip("func_adl_xAOD")
    derived = derive_form(query(), None)
    assert derived == derive_form(same(), None)
    ended = query().Select(f"lambda e: e.{derived.columns[0]}")
    ended = ended.AsROOTTTree("f.root", "tree", ["pt"])
    assert derive_form(ended, None).columns == ["pt"]
