"""`push`, against a fake that insists on what Grafana's HTTP API documents."""

import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from outcome_exporter import cli, dashboards, push
from outcome_exporter.errors import GrafanaError

TOKEN = "glsa_a-secret-that-nobody-must-see"
FILES = dashboards.generate(None)


class Grafana:
    """Folders and dashboards as the HTTP API documents them (Folder API, Dashboard API)."""

    def __init__(self, *, subpath="", exists=412):
        self.folders, self.boards, self.requests = {}, {}, []
        self.refuse = None
        grafana = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.reply(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def do_GET(self):
                self.reply(None)

            def reply(self, body):
                grafana.requests.append((self.command, self.path))
                status, answer = grafana.answer(self, body, subpath, exists)
                text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                kind = "text/html" if isinstance(answer, bytes) else "application/json"
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def answer(self, request, body, subpath, exists):  # noqa: PLR0911 - a case each
        if not request.path.startswith(f"{subpath}/api/"):
            return 404, b"<html>Not found</html>"
        if request.headers["authorization"] != f"Bearer {TOKEN}":
            return 401, {"message": "Invalid API key"}
        if self.refuse and "folders" not in request.path:
            return self.refuse
        path = request.path.removeprefix(f"{subpath}/api")
        if (request.command, path) == ("POST", "/folders"):
            assert request.headers["content-type"].startswith("application/json")
            assert set(body) == {"uid", "title"}
            assert len(body["uid"]) <= 40
            if body["uid"] in self.folders or body["title"] in self.folders.values():
                return exists, {"message": "the folder has been changed by someone else"}
            self.folders[body["uid"]] = body["title"]
            return 200, {"id": 1, "uid": body["uid"], "title": body["title"]}
        if request.command == "GET" and path.startswith("/folders/"):
            uid = path.removeprefix("/folders/")
            if uid not in self.folders:
                return 404, {"message": "folder not found", "status": "not-found"}
            return 200, {"uid": uid, "title": self.folders[uid]}
        assert (request.command, path) == ("POST", "/dashboards/db")
        board = body["dashboard"]
        # "id = null to create a new dashboard"; ours have none at all.
        assert board.get("id") is None
        assert 0 < len(board["uid"]) <= 40
        if body["folderUid"] not in self.folders:
            return 400, {"message": "folder not found"}
        if board["uid"] in self.boards and not body.get("overwrite"):
            return 412, {"status": "version-mismatch", "message": "changed by someone else"}
        version = self.boards.get(board["uid"], (None, 0))[1] + 1
        self.boards[board["uid"]] = (board, version)
        url = f"{subpath}/d/{board['uid']}/{board['title'].lower().replace(' ', '-')}"
        return 200, {"uid": board["uid"], "url": url, "status": "success", "version": version}

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.http.server_port}"


def pushed(url, token=TOKEN):
    return list(push.push(FILES, url, token=token, folder="Outcomes"))


def refused(url, token=TOKEN):
    with pytest.raises(GrafanaError) as found:
        pushed(url, token)
    assert TOKEN not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize("exists", [409, 412])
def test_a_second_push_changes_nothing_but_versions(exists):
    with Grafana(exists=exists) as grafana:
        first = pushed(grafana.address)
        assert grafana.folders == {"outcome-exporter": "Outcomes"}
        kept = {uid: board for uid, (board, _) in grafana.boards.items()}
        assert kept == {f"{json.loads(t)['uid']}": json.loads(t) for t in FILES.values()}
        assert pushed(grafana.address) == first
        assert first[0] == f"Outcomes: {grafana.address}/d/outcome-outcomes/outcomes"
        assert {uid: board for uid, (board, _) in grafana.boards.items()} == kept
        assert {version for _, version in grafana.boards.values()} == {2}


def test_a_grafana_below_a_path_is_reached_there():
    with Grafana(subpath="/grafana") as grafana:
        lines = pushed(f"{grafana.address}/grafana/")
        assert lines[0] == f"Outcomes: {grafana.address}/grafana/d/outcome-outcomes/outcomes"


def test_a_folder_of_somebody_else_with_the_same_title_is_not_taken():
    with Grafana() as grafana:
        grafana.folders["theirs"] = "Outcomes"
        said = refused(grafana.address)
        assert (
            said
            == "a folder that is not ours is called 'Outcomes'; give another title with --folder"
        )
        assert grafana.boards == {}


def test_a_wrong_token_is_said_and_not_shown():
    with Grafana() as grafana:
        said = refused(grafana.address, "glsa_another-secret")
        assert "401" in said
        assert "make a new one" in said
        assert "another-secret" not in said


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((403, {"message": "Access denied"}), "(Access denied); the token may not do this"),
        ((412, {"message": "provisioned"}), "provisioned from a file"),
        ((500, {"message": "boom"}), "look at Grafana's log"),
        ((502, b"<html>bad gateway</html>"), "(no reason given); try again"),
        ((200, b"<html>log in</html>"), "the answer is not Grafana's"),
        ((200, []), "the answer is not Grafana's"),
    ],
)
def test_every_refusal_says_what_to_do(answer, words):
    with Grafana() as grafana:
        grafana.folders["outcome-exporter"] = "Outcomes"
        grafana.refuse = answer
        assert words in refused(grafana.address)


def test_another_server_at_the_address_is_told_from_grafana():
    with Grafana(subpath="/grafana") as grafana:
        assert "there is no Grafana at this address" in refused(grafana.address)


def test_an_address_that_nobody_listens_on_is_said():
    with Grafana() as grafana:
        address = grafana.address
    assert "cannot be reached (Connection refused)" in refused(address)


def test_a_certificate_that_is_not_trusted_is_said_and_can_be_trusted(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650",
         "-subj", "/CN=grafana", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    with Grafana() as grafana:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        grafana.http.socket = context.wrap_socket(grafana.http.socket, server_side=True)
        address = grafana.address.replace("http:", "https:")
        said = refused(address)
        assert "its certificate is not trusted" in said
        assert "REQUESTS_CA_BUNDLE" in said
        assert grafana.requests == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert len(pushed(address)) == len(FILES)


@pytest.mark.parametrize(
    "url", ["grafana.example.com", "ftp://grafana", "http://", "http://[::1", "http://a:b/"]
)
def test_what_is_no_address_is_refused_before_anything_is_sent(url):
    assert "write https://grafana.example.com" in refused(url)


def test_a_password_in_the_address_is_refused_and_not_repeated():
    said = refused("https://admin:hunter2@grafana.example.com")
    assert "give a token instead" in said
    assert "hunter2" not in said


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["outcome-exporter", "push", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_the_command_takes_the_token_from_the_environment_or_a_file(monkeypatch, capsys, tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with Grafana() as grafana:
        monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
        assert run(monkeypatch, "--grafana", grafana.address) == 0
        monkeypatch.delenv("GRAFANA_TOKEN")
        assert run(monkeypatch, "--grafana", grafana.address, "--token-file", str(file)) == 0
        assert run(monkeypatch, "--grafana", grafana.address) == 1
        said = capsys.readouterr()
        assert said.err == (
            "outcome-exporter: no token; set GRAFANA_TOKEN or give --token-file FILE\n"
        )
        assert said.out.count(f"Exporter: {grafana.address}/d/outcome-exporter/exporter") == 2
        assert TOKEN not in said.out


def test_a_token_file_that_cannot_be_read_is_named(monkeypatch, capsys, tmp_path):
    missing = tmp_path / "token"
    assert run(monkeypatch, "--grafana", "http://x", "--token-file", str(missing)) == 1
    assert f"--token-file {missing}: No such file" in capsys.readouterr().err
