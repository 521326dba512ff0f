"""A configuration read with config-client: basic and bearer authentication, merged profiles, a secret, a change."""

import json
import os
import urllib.request

from config.spring import ConfigClient
from requests.auth import HTTPBasicAuth

CONTROL, ADMIN, SERVICE = (os.environ[f"SINEW_{name}"] for name in ("CONTROL", "ADMIN_TOKEN", "TOKEN"))


def rest(method, path, body):
    headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
    request = urllib.request.Request(CONTROL + path, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def write(item, content, form):
    rest("PUT", f"/v1/config/items/{item}", {"content": content, "format": form})


def read(**how):
    client = ConfigClient(address=f"{CONTROL}/config", app_name="orders", profile="prod", label="main")
    client.get_config(**how)
    return {key: client.get(key) for key in ("server.port", "name", "password", "shared")}


secret = rest("POST", "/v1/config/encrypt", {"value": "sekret"})["value"]
write("default/application/default/main", '{"shared": true}', "json")
write("default/orders/prod/main", "server:\n  port: 8080\n", "yaml")
for name in ("first", "second"):
    write("default/orders/default/main", f"name={name}\npassword={secret}\n", "properties")
    expected = {"server.port": 8080, "name": name, "password": "sekret", "shared": True}
    basic = read(auth=HTTPBasicAuth("user", SERVICE))
    bearer = read(headers={"Authorization": f"Bearer {SERVICE}"})
    assert basic == expected, basic
    assert bearer == expected, bearer
print("config-client read what was written")
