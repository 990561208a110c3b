"""Servers as people have them: behind a password, a certificate or a proxy. The MLflow behind is real."""

import base64
import datetime
import http.client
import ipaddress
import os
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, urlsplit

import psutil
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from study.cli import commands
from study.config.loader import load_study
from study.storage.study_folder import StudyFolder
from study.tracking import TrackingError, embedded_uri, fetch, open_tracker
from study.tracking.mlflow_backend import client as mlflow_client
from study.tracking.mlflow_backend.ui_server import serving
from study.training.worker import run_bundle

USER, PASSWORD, TOKEN = "me", "s3cret p@ss/w:rd%?", "t0ken"
QUOTED = quote(PASSWORD, safe="")
STUDY = {"name": "small", "workloads": ["digits-logreg"], "optimizers": ["sgd"], "alpha0": [0.01]}
STUDY |= {"seeds": 1, "epochs": 2}


class Authority:
    """A certificate authority of one's own, which signs certificates of 127.0.0.1."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, folder.name)])
        self.file = self._write("ca", self._sign(self.key.public_key(), self.name, is_authority=True))

    def issue(self, name):
        """Return a file with a new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        return self._write(name, self._sign(key.public_key(), subject), key)

    def _sign(self, key, subject, is_authority=False):
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )

    def _write(self, name, certificate, key=None):
        data = certificate.public_bytes(serialization.Encoding.PEM)
        if key is not None:
            data += key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        path = self.folder / f"{name}.pem"
        path.write_bytes(data)
        return path


class Front(ThreadingHTTPServer):
    """A reverse proxy before an MLflow server, which asks for a password, and may speak TLS."""

    daemon_threads = True

    def __init__(self, behind, *, certificate=None, clients=None, is_open=False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind = urlsplit(behind).netloc
        self.is_open = is_open
        self.busy = 0
        self.seen = []
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(clients)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
            scheme = "https"
        self.address = f"{scheme}://127.0.0.1:{self.server_port}"

    def lets_in(self, header):
        basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return self.is_open or header in (f"Basic {basic}", f"Bearer {TOKEN}")

    def handle_error(self, request, client_address):
        """A client that leaves in the middle of a handshake is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()  # not where connections are accepted, which it would hold up
        super().setup()

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        front = self.server
        front.seen.append((self.command, self.path))
        if front.busy:
            front.busy -= 1
            return self.answer(503, b"<html>no healthy upstream</html>")
        if not front.lets_in(self.headers.get("Authorization")):
            return self.answer(401, b"<html>log in</html>", {"WWW-Authenticate": 'Basic realm="x"'})
        if front.behind == "login":
            return self.answer(200, b"<html>log in here</html>")
        asked = http.client.HTTPConnection(front.behind, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        asked.request(self.command, self.path, body, headers)
        answer = asked.getresponse()
        kept = {name: value for name, value in answer.getheaders() if name.lower() == "content-type"}
        self.answer(answer.status, answer.read(), kept)

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *args):
        """Print nothing."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca") / "ours")


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """A real MLflow server that asks for nothing."""
    folder = tmp_path_factory.mktemp("server")
    before = os.getcwd()
    os.chdir(folder)  # where the server keeps artifacts by default
    try:
        with serving(embedded_uri(folder), port=0) as address:
            yield address
    finally:
        os.chdir(before)


@pytest.fixture
def front(behind):
    """A function that starts a :class:`Front`, stopped when the test ends."""
    running = []

    def start(behind=behind, **options):
        server = Front(behind, **options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("MLFLOW_TRACKING_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small study and the folder that it was trained in."""
    home = tmp_path_factory.mktemp("trained")
    study = load_study_from(home)
    there = StudyFolder(home, study.name)
    list(run_bundle(study.trials(), there))
    return study, there


@pytest.fixture
def track(trained, tmp_path):
    """A function that publishes a study to an address and fetches it back from there."""
    study, there = trained
    used = iter(range(10))

    def send(uri):
        named = study.model_copy(update={"name": f"{tmp_path.name}-{next(used)}"})
        tracker = open_tracker(named, uri, there)
        tracker.check()
        tracker.begin()
        for record in there.records(study.trials()):
            tracker.publish(record)
            assert tracker.is_complete(record)
        tracker.close(completed=True)
        here = StudyFolder(tmp_path / "here", named.name)
        fetch(uri, here)
        assert here.journal(study.trials()[0]).read_bytes() == there.journal(study.trials()[0]).read_bytes()
        return tracker

    return send


def load_study_from(folder):
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return load_study(path)


def problem(tmp_path, uri):
    """The one line that says why a server cannot be used, and that it holds no password."""
    tracker = open_tracker(load_study_from(tmp_path), uri, StudyFolder(tmp_path / "runs", "small"))
    with pytest.raises(TrackingError) as caught:
        tracker.check()
    (line,) = str(caught.value).splitlines()
    assert PASSWORD not in line
    assert TOKEN not in line
    return line


# What MLflow's own client can reach


def test_a_password_from_the_environment(front, track, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    track(front().address)


def test_a_password_from_mlflow_s_file(front, track, tmp_path):
    file = tmp_path / "home" / ".mlflow" / "credentials"
    file.parent.mkdir(parents=True)
    password = PASSWORD.replace("%", "%%")
    file.write_text(f"[mlflow]\nmlflow_tracking_username = {USER}\nmlflow_tracking_password = {password}\n")
    track(front().address)
    file.write_text(f"[mlflow]\nmlflow_tracking_username = {USER}\nmlflow_tracking_password = {PASSWORD}\n")
    assert problem(tmp_path, front().address) == (
        "~/.mlflow/credentials cannot be read; write a % in it as %%, and every line as NAME = VALUE"
    )


def test_a_token(front, track, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    track(front().address)


def test_a_certificate_of_ones_own_authority(front, track, authority, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.file))
    track(front(certificate=authority.issue("server"), is_open=True).address)


def test_tls_that_is_not_checked(front, track, authority, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    track(front(certificate=authority.issue("server"), is_open=True).address)


def test_a_certificate_of_the_client(front, track, authority, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.file))
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(authority.issue("me")))
    track(front(certificate=authority.issue("server"), clients=authority.file, is_open=True).address)


def test_a_password_in_the_address_works_and_is_kept_nowhere(front, behind, track, tmp_path, monkeypatch):
    address = front().address
    host = urlsplit(address).netloc
    tracker = track(f"http://{USER}:{QUOTED}@{host}")
    assert tracker.location == f"http://{USER}@{host}"
    (trial,) = tracker.study.trials()
    assert tracker.trial_link(trial.key).startswith(f"http://{host}/#/experiments/")
    assert tracker.study_link().startswith(f"http://{host}/#/experiments/")
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        for secret in (PASSWORD, QUOTED):
            assert secret.encode() not in path.read_bytes(), path


# Why a server cannot be used


def test_no_password(front, tmp_path):
    address = front().address
    assert problem(tmp_path, address) == (
        f"the MLflow server at {address} asks for a password; set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    )


def test_a_wrong_password(front, tmp_path, monkeypatch):
    address = front().address
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    assert problem(tmp_path, address) == (
        f"the MLflow server at {address} does not accept the password of user 'me'; correct "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    )
    host = urlsplit(address).netloc
    assert problem(tmp_path, f"http://me:wr0ng@{host}") == (
        f"the MLflow server at http://me@{host} does not accept the user and password in its address; "
        "correct them"
    )


def test_a_wrong_token(front, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "wrong")
    assert "does not accept the token; correct MLFLOW_TRACKING_TOKEN" in problem(tmp_path, front().address)


def test_a_certificate_that_is_not_trusted(front, tmp_path, authority, monkeypatch):
    address = front(certificate=authority.issue("server"), is_open=True).address
    line = problem(tmp_path, address)
    assert line.startswith(f"the certificate of the server at {address} is not trusted (")
    assert line.endswith("set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of the authority that signed it")
    other = Authority(tmp_path / "other")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(other.file))
    assert "is not trusted" in problem(tmp_path, address)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "none.pem"))
    assert problem(tmp_path, address) == (
        f"MLFLOW_TRACKING_SERVER_CERT_PATH names {tmp_path / 'none.pem'}, which does not exist; correct it"
    )


def test_a_certificate_of_the_client_that_is_missing(front, tmp_path, authority, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.file))
    address = front(certificate=authority.issue("server"), clients=authority.file, is_open=True).address
    assert "set MLFLOW_TRACKING_CLIENT_CERT_PATH" in problem(tmp_path, address)


def test_http_and_https_mixed_up(front, tmp_path, authority):
    plain = front(is_open=True).address
    assert "write http:// instead of https://" in problem(tmp_path, plain.replace("http://", "https://"))
    tls = front(certificate=authority.issue("server"), is_open=True).address
    assert "no MLflow server answers" in problem(tmp_path, tls.replace("https://", "http://"))


def test_something_that_is_not_mlflow(front, tmp_path):
    assert "is no MLflow server" in problem(tmp_path, front("http://login", is_open=True).address)
    assert "is no MLflow server (HTTP status 404)" in problem(tmp_path, front(is_open=True).address + "/a")


def test_a_proxy_on_the_way_that_is_away(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    line = problem(tmp_path, "http://mlflow.invalid:5000")
    assert line.startswith("the proxy on the way to http://mlflow.invalid:5000 does not answer")


def test_a_server_that_is_not_up_yet_is_waited_for_with_a_line(front, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_client, "RETRY_SECONDS", 0.05)
    server = front(is_open=True)
    server.busy = 3
    said = []
    tracker = open_tracker(
        load_study_from(tmp_path), server.address, StudyFolder(tmp_path, "small"), said.append
    )
    tracker.check()
    (line,) = said
    assert line.startswith(f"no MLflow server answers at {server.address} (a proxy in front of it says 503)")
    assert line.endswith("; waiting for it")


# Passwords on the command line


def test_a_password_on_the_command_line_is_neither_printed_nor_seen_in_the_list_of_processes(front, tmp_path):
    host = urlsplit(front().address).netloc
    load_study_from(tmp_path)
    command = [sys.executable, "-m", "study", "run", "small.yaml", "--cpus", "1", "--tracking-uri"]
    command += [f"http://{USER}:{QUOTED}@{host}"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if "trials; MLflow at" in line:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                words = " ".join(word for member in family for word in member.cmdline())
    finally:
        process.wait(timeout=120)
    text = "".join(lines)
    assert process.returncode == 0, text
    assert f"MLflow at http://{USER}@{host}" in text
    assert f"--tracking-uri http://{USER}@{host}" in words
    for secret in (PASSWORD, QUOTED):
        assert secret not in text + words
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert QUOTED.encode() not in path.read_bytes(), path


def test_the_ui_s_server_shows_no_password_in_the_list_of_processes(tmp_path):
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with serving(database, port=0):
        family = psutil.Process().children(recursive=True)
        words = [word for member in family for word in member.cmdline()]
    assert "mlflow" in words
    assert not [word for word in words if "sqlite:" in word]


def test_every_command_says_why_in_one_line(front, tmp_path, monkeypatch, capsys):
    address = front().address
    load_study_from(tmp_path)
    monkeypatch.chdir(tmp_path)
    for words in (["run", "small.yaml"], ["status", "small"], ["report", "small"], ["ui"]):
        monkeypatch.setattr(sys, "argv", ["hypergrad-study", *words, "--tracking-uri", address])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        said = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2
        assert len(said) == 1, said
        assert said[0].startswith(f"error: the MLflow server at {address} asks for a password"), words
