"""Settings of a node's agent: ``/etc/ulei/node.toml`` (written by ``ulei-node join``), overridden by the environment.

Every field is also an environment variable with the prefix ``ULEI_NODE_``; ``ULEI_NODE_CONFIG`` names another file.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from nodes.contract.errors import NodeError
from nodes.contract.specs import Id, Name


def config_file() -> Path:
    return Path(os.environ.get("ULEI_NODE_CONFIG", "/etc/ulei/node.toml"))


class Paths(BaseSettings):
    """What a node has before it has joined."""

    model_config = SettingsConfigDict(env_prefix="ULEI_NODE_", extra="ignore")

    state_dir: Path = Path("/var/lib/ulei")
    images_dir: Path = Path("/var/lib/libvirt/images")
    isos_dir: Path = Path("/var/lib/libvirt/boot")
    run_dir: Path = Path("/run/ulei")
    """Emptied by a boot of the node; a marker in it tells a boot from a restart of the agent."""
    pki_dir: Path = Path("/etc/pki")
    console_log_dir: Path = Path("/var/log/libvirt/qemu")
    libvirt_uri: str = "qemu:///system"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())

    @property
    def redis_password_file(self) -> Path:
        return self.state_dir / "redis.password"

    @property
    def ledger_file(self) -> Path:
        return self.state_dir / "ledger.sqlite3"

    @property
    def demo_dir(self) -> Path:
        return self.state_dir / "demo"

    @property
    def pools_file(self) -> Path:
        return self.state_dir / "pools.json"

    @property
    def frozen_dir(self) -> Path:
        """Has a note of each guest whose file systems this node has frozen."""
        return self.state_dir / "frozen"

    @property
    def taken_dir(self) -> Path:
        """Has the definition that each domain had before it was taken over."""
        return self.state_dir / "taken"

    @property
    def keys_dir(self) -> Path:
        """Keys of pools, each readable by root only."""
        return self.state_dir / "keys"

    @property
    def ca_file(self) -> Path:
        return self.pki_dir / "CA" / "cacert.pem"

    @property
    def certificate_file(self) -> Path:
        return self.pki_dir / "ulei" / "cert.pem"

    @property
    def key_file(self) -> Path:
        return self.pki_dir / "ulei" / "key.pem"


class Config(Paths):
    """A node that has joined."""

    id: Id
    name: Name
    redis_host: str
    redis_port: int = 6379
    redis_tls: bool = True
    virt_type: Literal["auto", "kvm", "qemu"] = "auto"
    uplinks: tuple[str, ...] = ()
    """Bridge ports that lead to other machines; empty: every port that is not a guest's tap."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    def redis_password(self) -> str:
        return self.redis_password_file.read_text().strip()


def load() -> Config:
    """Read the settings. Raises a certain ``not_joined`` or ``bad_config``."""
    if not config_file().exists() and "ULEI_NODE_ID" not in os.environ:
        raise NodeError("not_joined", f"{config_file()} is missing", "Run the command that the panel shows for a node.")
    try:
        return Config()
    except (ValidationError, ValueError) as error:
        raise NodeError("bad_config", f"{config_file()}: {error}", "Mend the file, or join again.") from None
