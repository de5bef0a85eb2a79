"""Django's settings. What differs between installations comes from the environment or from ``<state>/panel.env``."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.utils.translation import gettext_lazy as _
from pydantic import field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from nodes.contract.origin import networks_of

BASE_DIR = Path(__file__).resolve().parent.parent
STATE_DIR = Path(os.environ.get("ULEI_STATE", BASE_DIR / "var")).resolve()


class Installation(BaseSettings):
    """One installation's own values; the names in the environment are ``ULEI_`` + upper case."""

    model_config = SettingsConfigDict(env_prefix="ULEI_", env_file=STATE_DIR / "panel.env", extra="ignore")

    secret_key: str = "only-for-tests-and-schema"  # noqa: S105
    field_key: str = ""
    """Base64 of 32 random bytes: encrypts secret parameters of jobs in their rows."""
    port: int = 8100
    hosts: str = "127.0.0.1,localhost,[::1]"
    """Host names under which people open the panel, with commas."""
    behind_tls: bool = False
    redis_socket: str = str(STATE_DIR / "redis.sock")
    redis_web_password: str = ""
    redis_conductor_password: str = ""
    redis_channels_password: str = ""
    enrol_url: str = "https://10.99.0.1:8101"
    node_redis_host: str = "10.99.0.1"
    node_redis_port: int = 6380
    ca_dir: str = str(STATE_DIR / "ca")
    snapshots_of_a_vm: int = 16
    moves_of_a_node: int = 2
    """At most."""
    self_fencing_after_s: int = 60
    """Without the panel, where a node is to end its guests itself."""
    library_dir: str = str(STATE_DIR / "library")
    """Where the panel keeps images and ISOs that people uploaded."""
    upload_most_bytes: int = 64 << 30
    """The largest file that may be uploaded."""
    download_networks: str = ""
    """Networks, with commas, from which files may be downloaded by URL although their addresses are not public."""
    simulated: bool = False
    """Its nodes have no hypervisor; every page says so."""

    @field_validator("download_networks")
    @classmethod
    def _as_networks(cls, text: str) -> str:
        return ",".join(networks_of(text))


INSTALLATION = Installation()


def _database(url: str) -> dict[str, Any]:
    """A ``DATABASES`` entry from ``DATABASE_URL``; without one, SQLite in the state folder."""
    if not url:
        # IMMEDIATE: a transaction that will write takes the write lock at its beginning, so two of them never
        # deadlock on the upgrade of a read lock (https://www.sqlite.org/lang_transaction.html). FULL: a dispatch
        # number that reached a node must not be forgotten by a power loss and given out again.
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": STATE_DIR / "panel.sqlite3",
            # To open it anew for each request takes longer than most requests.
            "CONN_MAX_AGE": 60,
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=20000;",
            },
            "TEST": {"NAME": STATE_DIR / "test.sqlite3"},
        }
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError("DATABASE_URL must begin with postgresql://")
    options = dict(pair.split("=", 1) for pair in parts.query.split("&") if pair)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(options.get("host", parts.hostname or "")),
        "PORT": options.get("port", str(parts.port or "")),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }


SECRET_KEY = INSTALLATION.secret_key
DEBUG = False
ALLOWED_HOSTS = INSTALLATION.hosts.split(",")
ROOT_URLCONF = "web.urls"
ASGI_APPLICATION = "web.asgi.application"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_htmx",
    "axes",
    "csp",
    "cluster",
    "web",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "web.actor.ActorMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {"default": _database(os.environ.get("DATABASE_URL", ""))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "cluster.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "/"
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = 0.25
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]

LANGUAGE_CODE = "ru"
LANGUAGES = [("ru", _("Russian")), ("en", _("English"))]
LOCALE_PATHS = [BASE_DIR / "web" / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "/static/"
STATIC_ROOT = STATE_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}

# An online node that says nothing of a message for so long holds it: the job says so, and can be resolved.
UNANSWERED_AFTER_S = float(os.environ.get("ULEI_UNANSWERED_AFTER_S", 60))

# What a disk leaves behind when it goes elsewhere can be attached again for so long; then it is deleted.
TRASH_HOURS = float(os.environ.get("ULEI_TRASH_HOURS", 24))

SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = INSTALLATION.behind_tls
# Cookies do not know ports: two panels on one machine must not take each other's session for their own.
SESSION_COOKIE_NAME = f"ulei_session_{INSTALLATION.port}"
CSRF_COOKIE_NAME = f"ulei_csrf_{INSTALLATION.port}"
CSRF_COOKIE_SECURE = INSTALLATION.behind_tls
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "frame-ancestors": ["'none'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "object-src": ["'none'"],
    },
}


def redis_url(user: str, password: str) -> str:
    """URL of the panel's Redis for one of its own users, over the unix socket."""
    return f"unix://{user}:{password}@{INSTALLATION.redis_socket}?db=0"


REDIS_WEB_URL = redis_url("web", INSTALLATION.redis_web_password)
REDIS_CONDUCTOR_URL = redis_url("conductor", INSTALLATION.redis_conductor_password)

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {
            # redis-py 8 ends an idle socket after 5 s unless told otherwise: that would be every quiet browser.
            "hosts": [
                {"address": redis_url("channels", INSTALLATION.redis_channels_password), "socket_timeout": None},
            ],
            "prefix": "panel.ch",
        },
    },
}


REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["web.api.authentication.ActorAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["web.api.authentication.IsSignedIn"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "EXCEPTION_HANDLER": "web.api.errors.problem",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Ulei",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"axes.apps": {"level": "WARNING"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}
