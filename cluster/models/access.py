"""People and what they were given."""

import hashlib
import secrets

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models
from django.utils.translation import gettext_lazy as _

from .base import IdField


class Role(models.TextChoices):
    ADMINISTRATOR = "administrator", _("Administrator")
    FABRIC = "fabric", _("Fabric administrator")
    VM_ADMINISTRATOR = "vm_administrator", _("VM administrator")
    READ_ONLY = "read_only", _("Read-only administrator")
    TENANT_ADMINISTRATOR = "tenant_administrator", _("Tenant administrator")
    SELF_SERVICE = "self_service", _("Self-service user")


class Tenant(models.Model):
    id = IdField()
    name = models.CharField(max_length=63, unique=True)
    title = models.CharField(max_length=200, blank=True)
    created = models.DateTimeField(auto_now_add=True)

    DEFAULT = "default"

    def __str__(self) -> str:
        return self.name


class UserManager(BaseUserManager["User"]):
    def create_user(self, username: str, password: str | None = None, **fields: object) -> "User":
        user = self.model(username=username, **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user


class User(AbstractBaseUser):
    id = IdField()
    username = models.CharField(max_length=64, unique=True)
    language = models.CharField(max_length=2, choices=[("ru", "Русский"), ("en", "English")], default="ru")
    is_active = models.BooleanField(default=True)
    created = models.DateTimeField(auto_now_add=True)

    USERNAME_FIELD = "username"
    objects = UserManager()

    def __str__(self) -> str:
        return self.username


class Grant(models.Model):
    """A role given to a person; the two tenant roles hold in one tenant. One grant is in force at a time."""

    id = IdField()
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="grants")
    role = models.CharField(max_length=24, choices=Role.choices)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, blank=True, related_name="grants")
    actions = models.JSONField(default=list, blank=True)
    """Ticked actions; only a self-service user is limited by them."""
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(role__in=["tenant_administrator", "self_service"], tenant__isnull=False)
                | models.Q(role__in=["administrator", "fabric", "vm_administrator", "read_only"], tenant__isnull=True),
                name="tenant_roles_have_a_tenant",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.role}"


class Token(models.Model):
    """A secret for the API; acts with exactly one grant. Only its hash is kept."""

    id = IdField()
    grant = models.ForeignKey(Grant, on_delete=models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=100)
    sha256 = models.CharField(max_length=64, unique=True)
    created = models.DateTimeField(auto_now_add=True)
    expires = models.DateTimeField(null=True, blank=True)

    @staticmethod
    def hash_of(secret: str) -> str:
        return hashlib.sha256(secret.encode()).hexdigest()

    @classmethod
    def issue(cls, grant: Grant, name: str) -> str:
        """Make a token and return its secret, which cannot be read again."""
        secret = "ulei_" + secrets.token_urlsafe(32)
        cls.objects.create(grant=grant, name=name, sha256=cls.hash_of(secret))
        return secret
