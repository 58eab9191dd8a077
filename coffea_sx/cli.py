"""Command line: ``coffea-sx``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

from .errors import BadInput, ServiceXError
from .local.generations import GENERATIONS
from .query import RESULT_FORMATS, advice_on_writing, describe_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``coffea-sx``; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ServiceXError as error:
        print(f"coffea-sx: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="coffea-sx", description="coffea events for data that ServiceX has not produced yet"
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_demo(commands.add_parser("demo", help="run the whole job on this machine and draw a plot"))
    _add_form(commands.add_parser("form", help="show or save the form of a sample file"))
    _add_check(commands.add_parser("check", help="show the results, and what coffea will miss"))
    _add_serve(commands.add_parser("serve", help="start a ServiceX on this machine"))
    return parser


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--files", type=_positive, default=16, help="input files (%(default)s)")
    demo.add_argument(
        "--workers",
        type=_positive,
        default=2,
        help="processes that transform, and dask workers (%(default)s each)",
    )
    demo.add_argument("--events", type=_positive, default=20_000, help="per file (%(default)s)")
    demo.add_argument("--out", default="dimuon.png", help="path of the plot (%(default)s)")
    demo.set_defaults(run=_demo)


def _add_form(form: argparse.ArgumentParser) -> None:
    form.add_argument("sample", type=_sample, metavar="FILE:TREE")
    form.add_argument("--save", metavar="FORM.json", help="save it there, to be an input_form=")
    form.set_defaults(run=_form)


def _add_check(check: argparse.ArgumentParser) -> None:
    check.add_argument("query", help="MODULE:NAME of a query object, or a file with a selection")
    check.add_argument("--input", help="FILE:TREE or a saved form", metavar="INPUT")
    check.add_argument("--codegen", help="code generator of a selection in a file")
    check.add_argument("--format", default="root-file", choices=RESULT_FORMATS)
    check.add_argument("--schema", default="NanoAODSchema", help="of coffea (%(default)s)")
    check.set_defaults(run=_check)


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--port", type=int, default=0, help="TCP port; by default a free port")
    serve.add_argument("--directory", help="keep requests and results there, and continue them")
    serve.add_argument("--workers", type=_positive, default=2, help="files at once (%(default)s)")
    serve.add_argument(
        "--object-store",
        metavar="s3://HOST:PORT",
        help="put results there; the keys are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    )
    serve.add_argument(
        "--generation",
        choices=GENERATIONS,
        help="server generation to emulate (2026, or 2025 with an object store)",
    )
    serve.add_argument("--write", metavar="FILE", type=Path, help="write servicex.yaml there too")
    serve.set_defaults(run=_serve)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)


def _sample(text: str) -> dict[str, str]:
    path, _, tree = text.rpartition(":")
    if not path:
        raise argparse.ArgumentTypeError(f"{text} does not name a file and a tree: FILE:TREE")
    return {path: tree}


def _form(options: argparse.Namespace) -> int:
    from .forms.input_form import input_form

    form = input_form(options.sample, None)
    if options.save is None:
        for name, content in zip(form.fields, form.contents, strict=True):
            print(f"{name:40} {content.type}")
    else:
        try:
            Path(options.save).write_text(json.dumps(form.to_dict()))
        except OSError as error:
            raise BadInput(f"{options.save} cannot be written: {error.strerror}.") from None
        print(f"{len(form.fields)} columns saved in {options.save}")
    return 0


def _check(options: argparse.Namespace) -> int:
    import coffea.nanoevents

    from .forms.cross_references import misdirected_indices
    from .forms.derivation import derive_form
    from .forms.mapping import form_mapping
    from .forms.requirements import unmet_requirements

    schemaclass = getattr(coffea.nanoevents, options.schema, None)
    if schemaclass is None:
        raise BadInput(f"coffea.nanoevents has no {options.schema}.")
    is_sample = options.input is not None and not options.input.endswith(".json")
    input_form = _sample(options.input) if is_sample else options.input
    output_form = derive_form(_query(options.query), input_form, options.format, options.codegen)
    print(output_form)
    sentences = unmet_requirements(output_form, form_mapping(output_form, schemaclass))
    sentences += misdirected_indices(output_form, schemaclass)
    print("\n".join(["", *sentences]) if sentences else f"\n{options.schema} misses nothing.")
    return 1 if sentences else 0


def _query(text: str) -> Any:
    """Load a query object of a module, or read a selection from a file."""
    if Path(text).is_file():
        return Path(text).read_text().strip()
    module, _, name = text.partition(":")
    if not (module and name):
        raise BadInput(f"{text!r} is no file, and does not name a query: MODULE:NAME.")
    sys.path.insert(0, "")
    try:
        query = getattr(importlib.import_module(module), name)
        return query() if isinstance(query, FunctionType) else query
    except (ImportError, AttributeError) as error:
        raise BadInput(f"There is no query {text}: {error}") from None
    except Exception as error:
        # func_adl raises errors of any type.
        raise BadInput(
            f"The query {text} cannot be made{_line(error, module)}: {describe_error(error)} "
            f"{advice_on_writing(error)}"
        ) from error


def _line(error: Exception, module: str) -> str:
    """Return the line of a module in which an error arose, in parentheses, or an empty text."""
    spec = importlib.util.find_spec(module)
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if spec is not None and frame.filename == spec.origin
    ]
    return f" (line {lines[-1]} of {module})" if lines else ""


def _demo(options: argparse.Namespace) -> int:
    from .demo.job import run

    job = run(options.files, options.workers, options.events, options.out)
    print("\nseconds after submitting")
    for name, seconds in sorted(job.timeline.items(), key=lambda item: item[1]):
        print(f"{seconds:8.2f}  {name}")
    agreement = "the same, bin by bin" if job.agrees else "NOT THE SAME"
    print(f"\nhistograms of ServiceX results and of the input files: {agreement}")
    print(f"plot: {options.out}")
    return 0 if job.agrees else 1


def _serve(options: argparse.Namespace) -> int:
    from .local import LocalServiceX, private_files

    if options.write is not None:
        private_files.check_replaceable(options.write)
    # The server logs problems such as a full disk.
    logging.getLogger("coffea_sx").addHandler(logging.StreamHandler())
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with LocalServiceX(
        options.directory,
        options.workers,
        options.port,
        tokens=True,
        object_store=options.object_store,
        generation=options.generation,
    ) as server:
        path = server.config_path if options.write is None else options.write.absolute()
        if options.write is not None:
            private_files.write_file(path, server.servicex_yaml())
        print(f"ServiceX at {server.url} (Ctrl-C stops it)")
        print(f"Its servicex.yaml, with a token that only you can read, is {path}")
        print(
            f"Use config_path={str(path)!r} in Python and `-c {path}` with servicex; neither is "
            "needed in the folder of a servicex.yaml and below.",
            flush=True,
        )
        stopped.wait()
    return 0
