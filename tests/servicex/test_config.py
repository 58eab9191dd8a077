"""Which ServiceX is meant, and when a token may be sent to it."""

from __future__ import annotations

import pickle
import re

import pytest

from coffea_sx.errors import ConfigurationError
from coffea_sx.servicex.config import EndpointName, find_endpoint

YAML = """
api_endpoints:
  - endpoint: https://one.org/
    name: one
    token: CANARY-one
  - endpoint: http://localhost:5000
    name: two
  - endpoint: http://three.org
    name: three
    token: CANARY-three
  - endpoint: http://four.org
    name: four
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in a directory, with a home, that have no servicex.yaml."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work" / "deep").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work" / "deep")


def write(path, text=YAML):
    path.write_text(text)
    return path


def find(backend=None, url=None, config_path=None):
    return find_endpoint(EndpointName(backend, url, config_path and str(config_path)))


@pytest.mark.parametrize("name", ["servicex.yaml", ".servicex"])
@pytest.mark.parametrize("where", ["work/deep", "work", "home"])
def test_the_configuration_is_where_servicex_looks(tmp_path, where, name):
    write(tmp_path / where / name)
    assert find("two").url == "http://localhost:5000"


def test_a_given_path(tmp_path):
    endpoint = find("one", config_path=write(tmp_path / "mine.yaml"))
    assert endpoint.url == "https://one.org"
    assert endpoint.refresh_token.reveal() == "CANARY-one"
    assert "CANARY" not in repr(endpoint)
    with pytest.raises(TypeError):
        pickle.dumps(endpoint)


def test_a_directory_is_no_configuration(tmp_path):
    write(tmp_path / "servicex.yaml")
    with pytest.raises(ConfigurationError, match=str(tmp_path)):
        find("two", config_path=tmp_path)


def test_the_default_is_the_first_or_the_named(tmp_path):
    assert find(config_path=write(tmp_path / "a.yaml")).url == "https://one.org"
    named = write(tmp_path / "b.yaml", "default_endpoint: two\n" + YAML)
    assert find(config_path=named).url == "http://localhost:5000"


@pytest.mark.parametrize("backend", ["nope", "", "ONE"])
def test_an_unknown_backend(tmp_path, backend):
    path = write(tmp_path / "servicex.yaml")
    if not backend:
        assert find(backend, config_path=path).url == "https://one.org"
        return
    with pytest.raises(ConfigurationError, match=f"no backend '{backend}'.*'one', 'two'") as caught:
        find(backend, config_path=path)
    assert "CANARY" not in str(caught.value)


def test_no_configuration():
    with pytest.raises(ConfigurationError, match=r"no servicex\.yaml.*url="):
        find()


def test_a_given_path_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml"):
        find(config_path=tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "api_endpoints:\n  - {name: x, token: CANARY}\n",
        "api_endpoints: CANARY\n",
        "api_endpoints:\n  - {endpoint: 3, token: [CANARY]}\n",
        "CANARY",
        "- CANARY",
        "api_endpoints: [\n  token: CANARY",
        "api_endpoints:\n\t- token: CANARY",
        "default_endpoint: CANARY\n" + YAML,
        "{}",
        "",
        "a: &x CANARY\nb: *y\n",
    ],
)
def test_an_invalid_configuration_shows_no_token(tmp_path, text):
    path = write(tmp_path / "servicex.yaml", text)
    with pytest.raises(ConfigurationError) as caught:
        find(config_path=path)
    shown = str(caught.value).replace("default_endpoint: CANARY", "")
    assert "CANARY" not in shown or "default_endpoint" in text


def test_a_backend_and_a_url():
    with pytest.raises(ConfigurationError, match="not both"):
        find("one", "http://localhost:5000")


@pytest.mark.parametrize("url", ["ftp://host", "host:5000", "/servicex", "file:///etc/passwd", " "])
def test_what_is_no_address(url):
    with pytest.raises(ConfigurationError, match=r"not the http\(s\) address"):
        find(url=url)


def test_a_url_with_a_secret_is_not_repeated():
    with pytest.raises(ConfigurationError) as caught:
        find(url="ftp://me:CANARY@host/?token=CANARY")
    assert "CANARY" not in str(caught.value)


def test_no_token_is_sent_unencrypted_to_another_machine(tmp_path):
    path = write(tmp_path / "servicex.yaml")
    with pytest.raises(ConfigurationError, match=r"unencrypted to three\.org"):
        find("three", config_path=path)
    assert find("four", config_path=path).refresh_token is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_a_token_may_be_sent_to_this_machine(tmp_path, monkeypatch, host):
    token = write(tmp_path / "token", "CANARY")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(token))
    assert find(url=f"http://{host}:5000").bearer().reveal() == "CANARY"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://four.org", "unencrypted"),
        ("http://localhost.evil.org", "unencrypted"),
        ("http://127.0.0.1@evil.org", "password"),
    ],
)
def test_the_token_of_the_facility_is_not_sent_unencrypted(tmp_path, monkeypatch, url, says):
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(write(tmp_path / "token", "CANARY")))
    with pytest.raises(ConfigurationError, match=says):
        find(url=url)


def test_a_token_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="BEARER_TOKEN_FILE"):
        find(url="https://one.org")


@pytest.mark.parametrize(
    "content",
    ["# my token\nCANARY", "CAN\rARY", "CAN\0ARY", "CANARY ARY", "CAN\u00c4RY", "\ufeffCANARY"],
)
def test_what_is_no_token_is_refused_and_not_shown(tmp_path, monkeypatch, content):
    file = tmp_path / "token"
    file.write_bytes(content.encode())
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(file))
    with pytest.raises(
        ConfigurationError, match="BEARER_TOKEN_FILE names, holds no token"
    ) as caught:
        find(url="https://one.org")
    assert not {"CAN", "ARY"} & set(re.findall("[A-Z]{3}", str(caught.value)))


def test_a_token_of_two_lines_in_servicex_yaml(tmp_path):
    endpoint = "- endpoint: https://one.org\n  name: one\n  token: |\n    CANARY\n    ARY\n"
    (tmp_path / "servicex.yaml").write_text(f"api_endpoints:\n{endpoint}")
    with pytest.raises(ConfigurationError, match=r"servicex\.yaml holds no token") as caught:
        find("one", config_path=tmp_path / "servicex.yaml")
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_token_file_is_no_token(tmp_path, monkeypatch, content):
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(write(tmp_path / "token", content)))
    assert not find(url="https://one.org").bearer()


def test_a_name_travels_without_secrets(tmp_path):
    name = EndpointName("one", None, str(write(tmp_path / "servicex.yaml")))
    assert b"CANARY" not in pickle.dumps(name)
    assert find_endpoint(pickle.loads(pickle.dumps(name))) == find_endpoint(name)


def test_a_configuration_beside_a_url_has_the_token_of_that_address(tmp_path):
    path = write(tmp_path / "servicex.yaml")
    assert find(url="https://one.org/", config_path=path).refresh_token.reveal() == "CANARY-one"
    assert find(url="https://elsewhere.org", config_path=path).refresh_token is None
    assert find(url="https://one.org").refresh_token is None
    with pytest.raises(ConfigurationError, match=r"There is no servicex\.yaml"):
        find(url="https://one.org", config_path=tmp_path / "nowhere.yaml")
