from typing import Any

from pydantic import SecretStr

from cluster import crypto
from cluster.models import Job

from .steps import Context, Operation, Params


def context_of(job: Job) -> Context[Any]:
    """The job as step functions see it, secrets included."""
    params = dict(job.params)
    if job.secrets:
        for path, value in crypto.unseal(job.secrets).items():
            _put(params, path.split("."), value)
    return Context(job=job, params=Operation.registry[job.operation].Params.model_validate(params), data=job.data)


def split_secrets(operation: type[Operation[Any]], parsed: Params) -> tuple[dict[str, Any], str]:
    """``(params without secrets, sealed secrets)`` for the row."""
    params = parsed.model_dump(mode="json", exclude_unset=True)
    secrets: dict[str, Any] = {}
    for path in operation.secret:
        parts = path.split(".")
        _take(params, parts)
        value: Any = parsed
        for part in parts:
            value = getattr(value, part, None)
        if value is not None:
            secrets[path] = value.get_secret_value() if isinstance(value, SecretStr) else value
    return params, crypto.seal(secrets) if secrets else ""


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree[part] = dict(tree.get(part) or {})
    tree[path[-1]] = value


def _take(tree: dict[str, Any], path: list[str]) -> Any:
    for part in path[:-1]:
        tree = tree.get(part) or {}
    return tree.pop(path[-1], None) if isinstance(tree, dict) else None
