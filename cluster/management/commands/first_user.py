import json
import os
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from cluster.models import Grant, Role, Token, User


class Command(BaseCommand):
    help = "Make the first administrator with a password and a token, once, and write them to a file (mode 0600)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--username", default="admin")
        parser.add_argument("--write", type=Path, required=True, help="where to write url, username, password, token")

    def handle(self, *args: Any, **options: Any) -> None:
        path: Path = options["write"]
        if User.objects.filter(username=options["username"]).exists() and path.exists():
            return
        password = secrets.token_urlsafe(12)
        with transaction.atomic():
            user, _ = User.objects.get_or_create(username=options["username"])
            user.set_password(password)
            user.save()
            grant, _ = Grant.objects.get_or_create(user=user, role=Role.ADMINISTRATOR)
            token = Token.issue(grant, "first")
            credentials = {
                "url": f"http://127.0.0.1:{settings.INSTALLATION.port}",
                "username": user.username,
                "password": password,
                "token": token,
            }
            part = path.with_suffix(".part")
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(credentials, file, indent=2)
                file.write("\n")
            part.rename(path)
