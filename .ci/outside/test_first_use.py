"""What the README tells a new user to do."""

from conftest import http, until


def lines_of(process, count):
    return [process.stdout.readline().strip() for _ in range(count)]


def test_it_tells_what_to_try(service):
    output = service.output()
    for word in ("127.0.0.1:7410", "127.0.0.1:7411", "carillon user add alice", "carillon listen bob", "carillon send alice bob"):
        assert word in output, f"{word} is not in: {output}"


def test_two_terminals_talk_over_tcp_and_websocket(service):
    service.ok("user", "add", "ann", "--no-password")
    service.ok("user", "add", "ben", "--no-password")
    listening = service.start("listen", "ben", "--url", "tcp://127.0.0.1:7410")
    try:
        service.ok("send", "ann", "ben", "over a socket of another kind", "--url", "ws://127.0.0.1:7411/ws")
        until("ben to read it", lambda: "over a socket of another kind" in listening.stdout.readline())
    finally:
        listening.terminate()
        listening.wait(timeout=20)


def test_a_message_to_someone_who_is_away_is_there_later(service):
    service.ok("user", "add", "cleo", "--no-password")
    service.ok("user", "add", "dan", "--no-password")
    service.ok("send", "cleo", "dan", "read this later")
    listening = service.start("listen", "dan")
    try:
        until("dan to read it", lambda: "read this later" in listening.stdout.readline())
    finally:
        listening.terminate()
        listening.wait(timeout=20)


def test_a_message_to_nobody_is_refused(service):
    done = service.run("send", "ann", "nobody-at-all", "hello?")
    assert done.returncode != 0
    assert "nobody-at-all" in done.stdout + done.stderr


def test_metrics_can_be_scraped(service):
    from prometheus_client.parser import text_string_to_metric_families

    status, body = http("http://127.0.0.1:7400/metrics")
    assert status == 200
    names = {family.name for family in text_string_to_metric_families(body)}
    assert any(name.startswith("carillon_gateway_") for name in names), names
    assert any(name.startswith("carillon_router_") for name in names), names
    assert any(name.startswith("carillon_storage_") for name in names), names
    assert http("http://127.0.0.1:7400/healthz")[0] == 200
