"""The demo's Redis: TLS with client certificates for the nodes, a unix socket for the panel.

It runs in the lab's namespace; a unix socket is a file and so reaches the panel outside. Users of nodes are not
written here: the conductor makes them at run time from the database, also after a restart.
"""

import hashlib
import shutil

from deploy.lab.processes import Failed, Process, run, wait
from deploy.lab.state import State, write_private

CONFIG = """\
port 0
bind {address}
tls-port {port}
tls-cert-file {ca}/redis.pem
tls-key-file {ca}/redis.key
tls-ca-cert-file {ca}/ca.pem
tls-auth-clients yes
unixsocket {socket}
unixsocketperm 700
dir {folder}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
user default off
user conductor on #{conductor} ~* &* +@all
user web on #{web} ~panel.* &* -@all +@connection +@read +@write +@stream -@dangerous +info
user channels on #{channels} ~panel.ch* &panel.ch* -@all +@connection +@pubsub +info
"""


def process(state: State) -> Process:
    return state.process("redis")


def start(state: State) -> None:
    secrets = state.panel_secrets()
    digests = {
        user: hashlib.sha256(secrets[f"ULEI_REDIS_{user.upper()}_PASSWORD"].encode()).hexdigest()
        for user in ("conductor", "web", "channels")
    }
    folder = state.folder / "redis"
    config = folder / "redis.conf"
    text = CONFIG.format(
        address=state.address,
        port=state.redis_port,
        ca=state.ca,
        socket=state.redis_socket,
        folder=folder,
        **digests,
    )
    write_private(config, text)
    process(state).start(state.in_lab("redis-server", str(config)), state.environment("redis"))
    wait(lambda: _answers(state), 20, "Redis to answer", f"see {process(state).log}")


def restart_empty(state: State) -> None:
    """Kills Redis and brings it back without any of its data, as after the loss of its disk."""
    process(state).kill()
    shutil.rmtree(state.folder / "redis" / "appendonlydir", ignore_errors=True)
    start(state)


def cli(state: State, *command: str) -> str:
    """One command as the conductor's user."""
    env = state.environment("redis") | {"REDISCLI_AUTH": state.panel_secrets()["ULEI_REDIS_CONDUCTOR_PASSWORD"]}
    argv = ["redis-cli", "-s", str(state.redis_socket), "--user", "conductor", "--no-auth-warning", *command]
    return run(*argv, env=env).stdout


def listening(state: State) -> set[str]:
    """Ids of the nodes whose agents wait for messages at this moment."""
    clients = [dict(word.split("=", 1) for word in line.split()) for line in cli(state, "CLIENT", "LIST").splitlines()]
    return {client["user"].removeprefix("n") for client in clients if client.get("cmd") == "brpop"}


def _answers(state: State) -> bool:
    if process(state).pid() is None:
        raise Failed("Redis ended", process(state).last_lines(3))
    try:
        return cli(state, "PING").strip() == "PONG"  # while it loads its data it answers LOADING
    except Failed:
        return False
