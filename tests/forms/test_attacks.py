"""No query runs code: it is refused before any part of it is evaluated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from base64 import b64encode
from pathlib import Path

import httpx
import pytest
from support import attacks
from support.corpus import written
from support.paces import FAST

from coffea_sx import ServiceXEventsFactory, derive_form
from coffea_sx.errors import QueryError
from coffea_sx.forms.func_adl_uproot import func_adl_form
from coffea_sx.forms.input_form import input_form
from coffea_sx.forms.program import program
from coffea_sx.forms.uproot_raw import raw_forms
from coffea_sx.local import LocalServiceX
from coffea_sx.local.database import Database
from coffea_sx.local.records import RUNNING, NewRequest, Records

AT_ONCE = [("uproot", name) for name in attacks.FUNC_ADL]
AT_ONCE += [("uproot-raw", name) for name in attacks.RAW]
TABLES = {"uproot": attacks.FUNC_ADL, "uproot-raw": attacks.RAW}
# Refused only when a file is read, or when the query is run.
LATER = attacks.NAMES | {name: ("uproot", text) for name, text in attacks.CALCULATED.items()}

PYTHON = b64encode(b"import os\nos.mkdir('CANARY')\ndef run_query(path): pass\n").decode()


@pytest.fixture(scope="module")
def form(nano_files):
    return input_form({nano_files[0]: "Events"}, None)


@pytest.fixture
def canary(tmp_path):
    """A file that must not be there after the test."""
    path = tmp_path / "canary"
    yield path
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def server():
    with LocalServiceX(workers=1) as running:
        yield running


@pytest.fixture
def post(server, nano_files):
    def submit(codegen: str, selection: str) -> httpx.Response:
        body = {
            "codegen": codegen,
            "selection": selection,
            "result-destination": "object-store",
            "result-format": "root-file",
            "file-list": [str(nano_files[0])],
        }
        return httpx.post(f"{server.url}/servicex/transformation", json=body, timeout=60)

    return submit


def test_there_are_many_attacks():
    assert len(AT_ONCE) + len(LATER) >= 250
    texts = [TABLES[codegen][name] for codegen, name in AT_ONCE]
    assert len(set(texts)) == len(texts)


def derive(codegen, text, form):
    if codegen == "uproot":
        return func_adl_form(text, form)
    return raw_forms(text, {"Events": form})


@pytest.mark.parametrize(("codegen", "name"), AT_ONCE)
def test_the_client_refuses_an_attack(codegen, name, form, canary):
    text = TABLES[codegen][name].replace("CANARY", str(canary))
    with pytest.raises(QueryError) as refused:
        derive(codegen, text, form)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("name", LATER)
def test_the_client_refuses_an_attack_when_it_runs_the_query(name, form, canary):
    codegen, text = LATER[name]
    with pytest.raises(QueryError):
        derive(codegen, text.replace("CANARY", str(canary)), form)


@pytest.mark.sampled(10)
@pytest.mark.parametrize(("codegen", "name"), AT_ONCE)
def test_a_server_refuses_an_attack(codegen, name, post, canary):
    answer = post(codegen, TABLES[codegen][name].replace("CANARY", str(canary)))
    assert answer.status_code == 500
    assert "Failed to generate translation code: " in answer.json()["message"]


def test_a_refused_query_is_not_kept(server, post):
    requests = httpx.get(f"{server.url}/servicex/transformation").json()["requests"]
    assert post("uproot", attacks.FUNC_ADL["import in a call"]).status_code == 500
    assert httpx.get(f"{server.url}/servicex/transformation").json()["requests"] == requests


def ended(url: str, request_id: str) -> str:
    """Wait until a request has ended; return its status."""
    request = f"{url}/servicex/transformation/{request_id}"
    while (status := httpx.get(request).json()["status"]) in RUNNING:
        time.sleep(0.02)
    return status


def reason_of(url: str, request_id: str) -> str:
    """Wait until a request of one file has ended; return the reason of its failure."""
    assert ended(url, request_id) == "Complete"
    (error,) = httpx.get(f"{url}/servicex/transformation/{request_id}/errors").json()["errors"]
    return error["info"]


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", LATER)
def test_a_server_has_no_result_of_an_attack(name, server, post, canary):
    codegen, text = LATER[name]
    answer = post(codegen, text.replace("CANARY", str(canary)))
    assert answer.status_code == 200, answer.text
    reason = reason_of(server.url, answer.json()["request_id"])
    kinds = ("QueryError", "AttributeError", "FieldNotFoundError", "KeyInFileError", "TypeError")
    assert reason.startswith(kinds)


def test_functions_are_switched_off(server, post, form, canary):
    text = PYTHON.replace("CANARY", str(canary))
    assert "Invalid Codegen" in post("python", text).json()["message"]
    with pytest.raises(QueryError, match="cannot be derived from the query"):
        derive_form(text, form, "root-file", "python")


def test_a_stored_request_is_checked_again(tmp_path, nano_files, form):
    """A directory may come from elsewhere, or from a server that allowed more."""
    directory, canary = tmp_path / "server", tmp_path / "canary"
    directory.mkdir()
    database = Database(directory)
    records = Records(database)
    dataset = records.dataset_of_list([str(nano_files[0])])
    code = f"open({str(canary)!r}, 'w')\ndef run_query(input_filenames): pass\n"
    sources = ["\n" + code, attacks.FUNC_ADL["import in a call"], attacks.RAW["import in a cut"]]
    codegens = ["uproot", "uproot", "uproot-raw"]
    ids = [f"00000000-0000-0000-0000-00000000000{index}" for index in range(3)]
    for request_id, source, codegen in zip(ids, sources, codegens, strict=True):
        source = source.replace("CANARY", str(canary))
        (directory / "objects" / request_id).mkdir(parents=True)
        records.add_request(
            NewRequest(
                request_id,
                title=None,
                did_id=dataset,
                selection=source,
                source=source,
                codegen=codegen,
                result_format="root-file",
                status="Lookup",
            )
        )
    database.close()
    with LocalServiceX(directory) as running:
        for request_id, codegen in zip(ids, codegens, strict=True):
            assert reason_of(running.url, request_id).startswith("QueryError")
            # The same in a process that reads the events of a colleague.
            with pytest.raises(QueryError):
                ServiceXEventsFactory.from_request_id(
                    request_id, url=running.url, codegen=codegen, input_form=form, pace=FAST
                )
    assert not canary.exists()


@pytest.mark.parametrize("is_offered", [False, True])
def test_a_stored_function_runs_only_where_functions_do(is_offered, tmp_path, nano_files):
    directory, canary, request_id = tmp_path / "server", tmp_path / "canary", str(uuid.uuid4())
    directory.mkdir()
    database = Database(directory)
    records = Records(database)
    (directory / "objects" / request_id).mkdir(parents=True)
    records.add_request(
        NewRequest(
            request_id,
            title=None,
            did_id=records.dataset_of_list([str(nano_files[0])]),
            selection=PYTHON,
            source=f"import os\nos.mkdir({str(canary)!r})\ndef run_query(path): pass\n",
            codegen="python",
            result_format="root-file",
            status="Lookup",
        )
    )
    database.close()
    with LocalServiceX(directory, python=is_offered) as running:
        status = ended(running.url, request_id)
    assert status == ("Complete" if is_offered else "Canceled")
    assert canary.exists() is is_offered


# -- audit events of Python

AUDITED = """
import json, sys
sys.path.insert(0, sys.argv[1])
from support import attacks
from coffea_sx.errors import QueryError
from coffea_sx.forms.uproot_raw import raw_forms
from coffea_sx.forms.input_form import input_form
from coffea_sx.forms.func_adl_uproot import func_adl_form
from coffea_sx.forms.xaod import xaod_forms
from coffea_sx.local.codegen import generate_source
from coffea_sx.query import Selection
import dis, logging

logging.disable()
good = json.loads(sys.argv[3])
form = input_form({sys.argv[2]: "Events"}, None)
seen = []

def record(event, arguments):
    if event == "exec":
        seen.append([event, arguments[0].co_filename])
        operations = {step.opname.partition("_")[0] for step in dis.get_instructions(arguments[0])}
        seen[-1].append("CALL" in operations or "PRECALL" in operations)
    elif event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "ctypes.dlopen"):
        seen.append([event, str(arguments), True])

def refused(run, kind=QueryError):
    try:
        run()
    except kind:
        return True
    return False

def derive(codegen, text):
    if codegen == "uproot":
        return func_adl_form(text, form)
    return raw_forms(text, {"Events": form})

def all_of_it():
    bad = [("uproot", text) for text in attacks.FUNC_ADL.values()]
    bad += [("uproot-raw", text) for text in attacks.RAW.values()]
    for codegen, text in good:
        derive(codegen, text)
        generate_source(text, codegen)
    later = [*attacks.NAMES.values(), *(("uproot", text) for text in attacks.CALCULATED.values())]
    assert all(refused(lambda: derive(codegen, text)) for codegen, text in bad + later)
    assert all(refused(lambda: generate_source(text, codegen), Exception) for codegen, text in bad)

all_of_it()  # finish late imports
sys.addaudithook(record)
eval("1")
shown, seen[:] = list(seen), []
all_of_it()
package, seen[:] = list(seen), []
for text in attacks.FUNC_ADL.values():
    refused(lambda: xaod_forms(Selection(text, "atlasr21", "root-file", None, "")))
xaod = [entry for entry in seen if entry[1] == "<string>"]
print(json.dumps({"shown": shown, "package": package, "xaod": xaod}))
"""

GOOD = [
    ("uproot", written("events().Select(lambda e: {'a': e.Muon_pt, 'b': np.sqrt(e.MET_pt)})")),
    ("uproot", written("events().Where(lambda e: e.MET_pt > 20).Select(lambda e: {'a': e.run})")),
    ("uproot-raw", attacks.raw(expressions=["a", "MET_pt"], aliases={"a": "sum(Muon_pt)*2"})),
    ("uproot-raw", attacks.raw(filter_name="MET_pt", cut="any(Muon_pt > 20)")),
]


@pytest.mark.long
def test_python_evaluates_nothing(nano_files, tmp_path):
    """Observed by audit events of Python, with good queries as well."""
    import coffea_sx

    (package,) = coffea_sx.__path__
    arguments = [str(Path(attacks.__file__).parents[1]), str(nano_files[0]), json.dumps(GOOD)]
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(package).parent)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["shown"] == [["exec", "<string>", False]]
    assert seen["package"] == []
    # func_adl_xAOD looks up names of functions with eval, and calls none of them.
    assert [entry for entry in seen["xaod"] if entry[2]] == []
    assert list(tmp_path.iterdir()) == []


def test_one_program_for_all_files():
    text = attacks.column("(attr e 'MET_pt')")
    assert program(text) is program(text)
