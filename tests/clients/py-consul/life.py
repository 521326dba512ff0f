"""The life of a service, of keys and of locks with py-consul."""

import json
import os
import threading
import time
import urllib.request
from urllib.parse import urlparse

import consul
from consul import exceptions

CONTROL = os.environ["SINEW_CONTROL"]
TOKEN = os.environ["SINEW_TOKEN"]
AT = urlparse(os.environ["SINEW_CONSUL"])


def client(token=TOKEN):
    return consul.Consul(host=AT.hostname, port=AT.port, token=token)


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


def until(what, condition):
    """Waits for what must happen, however long a busy machine takes."""
    end = time.monotonic() + 120
    while True:
        value = condition()
        if value:
            print(f"ok: {what}", flush=True)
            return value
        assert time.monotonic() < end, f"it did not happen: {what}"
        time.sleep(0.05)


def blocked(what, begin, change):
    """A blocking query that a change must end, and nothing else."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(begin()), daemon=True)
    thread.start()
    thread.join(1.5)
    assert not answers, f"it did not wait: {what}"
    change()
    thread.join(120)
    assert answers, f"it was not woken: {what}"
    print(f"ok: {what}", flush=True)
    return answers[0]


c = client()


def refused(call, error):
    try:
        call()
    except error as refusal:
        return str(refusal)
    raise AssertionError(f"it was not refused with {error}")


# Who may.
refused(client("not a token").agent.services, exceptions.ACLPermissionDenied)
refused(client(None).catalog.services, exceptions.ACLPermissionDenied)
assert c.agent.self()["Config"]["Datacenter"] == "dc1"
assert c.agent.members()[0]["Status"] == 1
assert c.status.leader() and c.status.peers() and c.catalog.datacenters() == ["dc1"]

# A service with a TTL check: critical until it is passed, critical when it is not, gone in the end.
def register(port=8080, tags=("blue",), ttl="30s"):
    check = consul.Check.ttl(ttl)
    check["DeregisterCriticalServiceAfter"] = "600s"
    assert c.agent.service.register(
        "Web_Shop", service_id="web/1", address="127.0.0.1", port=port, tags=list(tags),
        meta={"Env": "test"}, weights={"Passing": 7, "Warning": 2}, check=check,
    )


def entries(**more):
    return c.health.service("Web_Shop", **more)[1]


register()
(entry,) = entries()
assert entry["Service"]["ID"] == "web/1" and entry["Service"]["Service"] == "Web_Shop", entry
assert entry["Service"]["Tags"] == ["blue"] and entry["Service"]["Meta"] == {"Env": "test"}, entry
assert (entry["Service"]["Address"], entry["Service"]["Port"]) == ("127.0.0.1", 8080), entry
assert entry["Service"]["Weights"] == {"Passing": 7, "Warning": 2}, entry
assert [(k["CheckID"], k["Status"]) for k in entry["Checks"]] == [("service:web/1", "critical")], entry
assert entries(passing=True) == []
assert c.agent.check.ttl_pass("service:web/1", notes="well")
assert len(entries(passing=True)) == 1
assert entries(tag="blue") and not entries(tag="green")
assert entries(filter_expr='Service.Meta.Env == "test" and "blue" in Service.Tags')
assert not entries(filter_expr='Service.Meta.Env == "prod"')
refused(lambda: entries(filter_expr="what is this"), exceptions.BadRequest)
print("ok: registered, passed and found", flush=True)

# What was registered here is seen there, and the other way round.
(name,) = [s["name"] for s in rest("GET", "/v1/services")["services"]]
(known,) = rest("GET", f"/v1/services/{name}")["instances"]
assert (known["status"], known["port"]) == ("up", 8080), known
rest("PUT", "/v1/services/stock/instances/stock-1", {"address": "127.0.0.1", "port": 9, "ttl_ms": 600000})
(stock,) = c.health.service("stock", passing=True)[1]
assert stock["Service"]["ID"] == "stock-1" and stock["Service"]["Port"] == 9, stock
assert set(c.catalog.services()[1]) == {"Web_Shop", "stock"}
assert c.catalog.services()[1]["Web_Shop"] == ["blue"]
(flat,) = c.catalog.service("Web_Shop")[1]
assert (flat["ServiceID"], flat["ServicePort"]) == ("web/1", 8080), flat
assert [n["Node"] for n in c.catalog.nodes()[1]] == ["127.0.0.1"]
assert list(c.agent.services()) == ["web/1"] and list(c.agent.checks()) == ["service:web/1"]
print("ok: across dialects", flush=True)

# Heartbeats wake nobody, others' changes wake nobody, its own changes do.
index, _ = c.health.service("Web_Shop")


def noise():
    for n in range(3):
        c.agent.check.ttl_pass("service:web/1", notes=f"beat {n}")
        rest("PUT", "/v1/services/stock/instances/stock-2", {"address": "127.0.0.1", "port": 10 + n})
        c.kv.put(f"noise/{n}", "x")


noise()
answer = blocked(
    "a change of the service wakes who waits for it, and nothing else does",
    lambda: c.health.service("Web_Shop", index=index, wait="300s"),
    lambda: register(port=8081, tags=("blue", "v2")),
)
assert int(answer[0]) > int(index) and answer[1][0]["Service"]["Port"] == 8081, answer
assert entries(passing=True), "registering again keeps what was passed"
again, _ = c.health.service("Web_Shop", index=answer[0], wait="1s")
assert again == answer[0], "when its time is over the index is the same"
for state, call in (("warning", c.agent.check.ttl_warn), ("critical", c.agent.check.ttl_fail)):
    assert call("service:web/1", notes="look")
    (check,) = c.health.checks("Web_Shop")[1]
    assert (check["Status"], check["Output"]) == (state, "look"), check
assert [k["ServiceID"] for k in c.health.state("critical")[1]] == ["web/1"]
c.agent.check.ttl_pass("service:web/1")
assert c.agent.service.maintenance("web/1", "true", reason="works")
assert entries(passing=True) == [] and entries()
assert c.agent.service.maintenance("web/1", "false")
assert len(entries(passing=True)) == 1
print("ok: warned, failed, out of service and back", flush=True)

refused(lambda: c.agent.service.register("x", check=consul.Check.script(["true"], "1s")), exceptions.BadRequest)

# One that stays silent becomes critical, and goes.
check = consul.Check.ttl("2s")
check["DeregisterCriticalServiceAfter"] = "5s"
assert c.agent.service.register("silent", service_id="silent-1", port=1, check=check)
c.agent.check.ttl_pass("service:silent-1")
until("a silent one becomes critical, then goes", lambda: c.health.service("silent")[1] == [])
assert c.agent.service.deregister("web/1")
assert entries() == [] and "Web_Shop" not in c.catalog.services()[1]
print("ok: deregistered", flush=True)

# Keys.
index, value = c.kv.get("app/color")
assert value is None
answer = blocked(
    "a key that is made wakes who waits for it",
    lambda: c.kv.get("app/color", index=index, wait="300s"),
    lambda: (c.kv.put("app/colors", "not it"), c.kv.put("app/color", "blue", flags=42)),
)
item = answer[1]
assert (item["Value"], item["Flags"], item["LockIndex"]) == (b"blue", 42, 0), item
assert item["CreateIndex"] == item["ModifyIndex"] == int(answer[0]), answer
answer = blocked(
    "a change wakes who waits for the tree",
    lambda: c.kv.get("app/", recurse=True, index=c.kv.get("app/", recurse=True)[0], wait="300s"),
    lambda: (c.kv.put("other", "x"), c.kv.put("app/size", b"\x00\xff")),
)
assert [i["Key"] for i in answer[1]] == ["app/color", "app/colors", "app/size"], answer
assert answer[1][2]["Value"] == b"\x00\xff"
c.kv.put("app/a/b", "")
assert c.kv.get("app/a/b")[1]["Value"] is None
assert c.kv.get("app/", keys=True, separator="/")[1] == ["app/a/", "app/color", "app/colors", "app/size"]
assert c.kv.put("app/color", "red", cas=item["ModifyIndex"]) is True
assert c.kv.put("app/color", "green", cas=item["ModifyIndex"]) is False
assert c.kv.put("app/color", "green", cas=0) is False
assert c.kv.delete("app/color", cas=item["ModifyIndex"]) is False
before = c.kv.get("app/color")[0]
answer = blocked(
    "a deletion wakes who waits",
    lambda: c.kv.get("app/color", index=before, wait="300s"),
    lambda: c.kv.delete("app/color"),
)
assert answer[1] is None and int(answer[0]) > int(before), answer
assert c.kv.delete("app/", recurse=True) is True and c.kv.get("app/", recurse=True)[1] is None
refused(lambda: c.kv.put("large", b"x" * (512 * 1024 + 1)), exceptions.ClientError)
assert c.kv.put("large", b"x" * (512 * 1024)) is True
# This version sends no token with transactions by itself.
refused(lambda: c.txn.put([]), exceptions.ACLPermissionDenied)
c.http.session.headers["X-Consul-Token"] = TOKEN
result = c.txn.put([
    {"KV": {"Verb": "set", "Key": "t/1", "Value": "MQ=="}},
    {"KV": {"Verb": "get", "Key": "t/1"}},
])
assert result["Results"][1]["KV"]["Value"] == "MQ==", result
print("ok: keys", flush=True)

# Locks.
sid = c.session.create(name="lock", ttl=10, lock_delay=0)
other = c.session.create(name="other", ttl=10, lock_delay=0)
assert {s["ID"] for s in c.session.list()[1]} == {sid, other}
assert c.session.info(sid)[1]["TTL"] == "10s"
assert c.kv.put("leader", "a", acquire=sid) is True
assert c.kv.put("leader", "b", acquire=other) is False
assert c.kv.get("leader")[1]["Session"] == sid
assert c.kv.put("leader", "a", release=sid) is True
assert c.kv.put("leader", "b", acquire=other) is True
assert c.kv.get("leader")[1]["LockIndex"] == 2
refused(lambda: c.kv.put("leader", "c", acquire="no-session"), exceptions.BadRequest)
index, _ = c.kv.get("leader")


def wait_for_release():
    at = index
    while True:
        at, item = c.kv.get("leader", index=at, wait="120s")
        if "Session" not in item:
            return item


def renew_one():
    # The other one is not renewed; this one is, beyond the whole life of the other.
    end = time.monotonic() + 60
    while c.session.info(other)[1] is not None:
        assert time.monotonic() < end, "it did not expire"
        c.session.renew(sid)
        time.sleep(1)


answer = blocked("a session that is not renewed expires, and its lock is released", wait_for_release, renew_one)
assert answer["Value"] == b"b"
assert c.session.info(sid)[1]["ID"] == sid
refused(lambda: c.session.renew(other), exceptions.NotFound)
assert c.kv.put("leader", "a", acquire=sid) is True
fleeting = c.session.create(behavior="delete", ttl=10, lock_delay=0)
assert c.kv.put("note", "x", acquire=fleeting) is True
assert c.session.destroy(fleeting) and c.kv.get("note")[1] is None
assert c.session.destroy(sid) and c.session.destroy(sid)
assert "Session" not in c.kv.get("leader")[1]
print("ok: locks", flush=True)

print("all is well", flush=True)
os._exit(0)
