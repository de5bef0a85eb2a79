"""Secret parameters in their rows: encrypted with the installation's key, wiped when the job ends."""

import base64
import hashlib
import json
from typing import Any

from cryptography.fernet import Fernet
from django.conf import settings


def _fernet() -> Fernet:
    key = settings.INSTALLATION.field_key
    raw = base64.b64decode(key) if key else hashlib.sha256(settings.SECRET_KEY.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(raw))


def seal(value: Any) -> str:
    return _fernet().encrypt(json.dumps(value).encode()).decode()


def unseal(text: str) -> Any:
    return json.loads(_fernet().decrypt(text.encode()))
