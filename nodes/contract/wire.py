"""Names on the broker: the queue, the stream, the key prefix and the Redis user of a node.

A key belongs to exactly one node's user, so the name of a stream proves who speaks and nothing is signed.
"""

CELERY_TASK_PREFIX = "ulei."
"""A verb ``disk.create`` is the Celery task ``ulei.disk.create``; ``ulei.cancel`` is the control message."""

CANCEL_TASK = CELERY_TASK_PREFIX + "cancel"

COMMANDS = "commands"
"""The queue as the agent names it; kombu puts the node's prefix before it."""

PANEL_WAKE = "panel.wake"
"""Stream on which ``operations.start`` tells the conductor that a job was committed."""

STREAM_MAXLEN = 20_000
"""Entries kept on a node's stream (approximate trimming). A trimmed reply is asked for again."""

HEARTBEAT_S = 3.0
OFFLINE_AFTER_S = 15.0


def key_prefix(node_id: str) -> str:
    return f"n.{node_id}."


def commands_queue(node_id: str) -> str:
    """The node's queue as the panel, which has no key prefix, names it."""
    return key_prefix(node_id) + COMMANDS


def events_stream(node_id: str) -> str:
    return key_prefix(node_id) + "events"


def node_of_stream(stream: str) -> str:
    """The node that a stream's name proves: ``n.<id>.events`` -> ``<id>``."""
    prefix, node_id, suffix = stream.split(".")
    if (prefix, suffix) != ("n", "events"):
        raise ValueError(f"{stream!r} is not the stream of a node")
    return node_id


def welcome_list(node_id: str) -> str:
    """List on which the panel answers a hello: past the queue, because the queue waits for that answer."""
    return key_prefix(node_id) + "welcome"


def redis_user(node_id: str) -> str:
    return f"n{node_id}"


# CLIENT PAUSE and EVAL from one node would stall the broker of all, so only two words of CLIENT are allowed
# and the panel loads the lock scripts of redis-py itself (SCRIPT LOAD); the node calls them by EVALSHA.
_NODE_COMMANDS = (
    "+brpop +lpush +rpush +rpop +llen +hset +hdel +hget +hlen +zadd +zrem +zrange +zrangebyscore "
    "+zrevrangebyscore +set +get +del +exists +sadd +srem +smembers +xadd +watch +unwatch +multi +exec +ping "
    "+client|setname +client|id +hello +auth +select +pexpire +pttl +evalsha +info +time"
).split()


def acl_rules(node_id: str, password_sha256: str) -> list[str]:
    """Arguments of ``ACL SETUSER`` for a node (https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/).

    :param password_sha256: hex digest; the panel never knows the password itself.
    """
    return [
        "reset",
        "on",
        "#" + password_sha256,
        f"~{key_prefix(node_id)}*",
        "resetchannels",
        "-@all",
        *_NODE_COMMANDS,
    ]
