"""The order in which a server starts and stops, as those see it who ask whether it is ready."""

import logging

import yaml
from tests.fire.process import config, free_ports, get

from outcome_exporter import server as module
from outcome_exporter.server import Server


def test_it_is_ready_only_while_requests_are_accepted(tmp_path, monkeypatch):
    (port,) = free_ports(1)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config(tmp_path, metrics={"listen": f"127.0.0.1:{port}"})))
    server = Server(file)
    answers = []

    def asked_before(step):
        def ask(*arguments):
            assert server._engine.not_ready() is None
            answers.append(get(port, "/readyz"))
            return step(*arguments)

        return ask

    monkeypatch.setattr(server._rpc, "start", asked_before(server._rpc.start))
    monkeypatch.setattr(server._rpc, "stop", asked_before(server._rpc.stop))
    server.start()
    try:
        assert get(port, "/readyz")[0] == 200
        assert "outcome_exporter_ready 1.0" in get(port, "/metrics")[1].splitlines()
    finally:
        server.stop()
    assert answers == [(503, "not ready: no requests are accepted\n")] * 2


def test_who_waits_for_a_first_start_was_told_that_it_compiles(tmp_path, monkeypatch, caplog):
    (port,) = free_ports(1)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config(tmp_path, metrics={"listen": f"127.0.0.1:{port}"})))
    caplog.set_level(logging.INFO)
    told = []
    monkeypatch.setattr(module, "warm_up", lambda _config: told.append(caplog.text))
    server = Server(file)
    server.start()
    server.stop()
    assert "compiles" in told[0]
