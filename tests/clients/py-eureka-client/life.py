"""The life of a service with py-eureka-client."""

import asyncio
import http.server
import json
import os
import threading
import time
import urllib.request

from py_eureka_client import eureka_client
from py_eureka_client.eureka_client import EurekaClient

CONTROL = os.environ["SINEW_CONTROL"]
TOKEN = os.environ["SINEW_TOKEN"]
EUREKA = os.environ["SINEW_EUREKA"].replace("http://", f"http://client:{TOKEN}@") + "/eureka"


def rest(method, path, body=None):
    request = urllib.request.Request(
        CONTROL + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {TOKEN}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def known(service):
    """What the REST API knows: status by id."""
    return {i["id"]: i["status"] for i in rest("GET", f"/v1/services/{service}")["instances"]}


async def until(what, condition):
    """Waits for what must happen, however long a busy machine takes."""
    end = time.monotonic() + 60
    while True:
        value = condition()
        if value:
            print(f"ok: {what}", flush=True)
            return value
        assert time.monotonic() < end, f"it did not happen: {what}"
        await asyncio.sleep(0.05)


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello from " + self.path.encode())

    def log_message(self, *_):
        pass


def client(app, port, instance, beat, lease, **more):
    return EurekaClient(
        eureka_server=EUREKA,
        app_name=app,
        instance_id=instance,
        instance_host="127.0.0.1",
        instance_ip="127.0.0.1",
        instance_port=port,
        renewal_interval_in_secs=beat,
        duration_in_secs=lease,
        **more,
    )


async def main():
    errors = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]

    orders = client(
        "orders", port, "orders:1", 1, 8,
        metadata={"color": "blue & <green>"}, vip_adr="shop", secure_vip_addr="shop-tls",
        should_discover=False, on_error=lambda kind, error: errors.append((kind, error)),
    )
    await orders.start()
    assert known("orders") == {"orders:1": "up"}, "registered when start() returns"
    print("ok: registered", flush=True)

    whole = 0
    fetch = eureka_client.get_applications

    async def counted(*args):
        nonlocal whole
        whole += 1
        return await fetch(*args)

    eureka_client.get_applications = counted
    reader = EurekaClient(eureka_server=EUREKA, should_register=False, renewal_interval_in_secs=1)
    await reader.start()

    def seen(app):
        return {i.instanceId: i.status for i in reader.applications.get_application(app).instances}

    await reader._EurekaClient__pull_full_registry()
    instance = reader.applications.get_application("ORDERS").get_instance("orders:1")
    assert (instance.ipAddr, instance.port.port, instance.port.enabled) == ("127.0.0.1", port, True)
    assert instance.metadata == {"color": "blue & <green>", "management.port": str(port), "zone": "default"} \
        or instance.metadata == {"color": "blue & <green>", "management.port": str(port)}, instance.metadata
    assert (instance.leaseInfo.renewalIntervalInSecs, instance.leaseInfo.durationInSecs) == (1, 8)
    answer = await reader.do_service("ORDERS", "/there")
    assert answer == "hello from /there", answer
    print("ok: found and called", flush=True)

    for found in (
        await eureka_client.get_vip(EUREKA, "shop"),
        await eureka_client.get_secure_vip(EUREKA, "shop-tls"),
    ):
        assert [i.instanceId for i in found.get_application("ORDERS").instances] == ["orders:1"]
    alone = await eureka_client.get_app_instance(EUREKA, "orders", "orders:1")
    assert alone.homePageUrl == f"http://127.0.0.1:{port}/", alone.homePageUrl
    assert len((await eureka_client.get_application(EUREKA, "orders")).instances) == 1

    rest("PUT", "/v1/services/stock/instances/stock-1", {"address": "127.0.0.1", "port": port, "ttl_ms": 600000})
    await until("what REST registers is seen", lambda: seen("STOCK") == {"stock-1": "UP"})
    rest("PUT", "/v1/services/stock/instances/stock-1/status", {"status": "draining"})
    await until("who drains is out of service", lambda: seen("STOCK") == {"stock-1": "OUT_OF_SERVICE"})

    before = whole
    await orders.status_update("OUT_OF_SERVICE")
    assert known("orders") == {"orders:1": "out_of_service"}
    await until("an override is seen", lambda: seen("ORDERS") == {"orders:1": "OUT_OF_SERVICE"})
    await orders.delete_status_override()
    assert known("orders") == {"orders:1": "up"}
    await until("its end is seen", lambda: seen("ORDERS") == {"orders:1": "UP"})
    rest("PUT", "/v1/services/stock/instances/stock-2", {"address": "127.0.0.1", "port": port, "ttl_ms": 600000})
    rest("DELETE", "/v1/services/stock/instances/stock-1")
    await until("one comes and one goes", lambda: seen("STOCK") == {"stock-2": "UP"})
    assert whole == before, f"all was fetched anew {whole - before} times though the deltas said everything"
    print("ok: deltas alone were enough", flush=True)

    beats = time.monotonic() + 20
    while time.monotonic() < beats:
        assert known("orders") == {"orders:1": "up"}, "its heartbeats keep it"
        await asyncio.sleep(0.5)
    assert not errors, errors
    print("ok: heartbeats keep it beyond its lease", flush=True)
    rest("DELETE", "/v1/services/orders/instances/orders:1")
    await until("on 404 it registers again", lambda: known("orders") == {"orders:1": "up"})

    silent = client("silent", port, "silent:1", 3600, 2, should_discover=False)
    await silent.start()
    await until("a silent one is seen, then expires", lambda: known("silent") == {})
    await until("and all readers know", lambda: seen("SILENT") == {})

    polite = client("polite", port, "polite:1", 3600, 600, should_discover=False)
    await polite.start()
    await until("the polite one is seen", lambda: seen("POLITE") == {"polite:1": "UP"})
    await polite.stop()
    assert known("polite") == {}, "gone when stop() returns"
    await until("its end is seen", lambda: seen("POLITE") == {})


asyncio.run(main())
print("all is well", flush=True)
# The client's own threads never end.
os._exit(0)
