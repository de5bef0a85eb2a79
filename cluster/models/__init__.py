from .access import Grant, Role, Tenant, Token, User
from .audit import AuditEvent, IdempotencyKey
from .backup import Backup, BackupState
from .base import new_id
from .inventory import (
    Address,
    AddressRange,
    Image,
    ImageCopy,
    Iso,
    IsoCopy,
    JoinToken,
    Network,
    Node,
    NodeState,
    Pool,
    PoolOnNode,
)
from .jobs import FINAL, Job, JobState, Lock, Look, ObjectNumber, RaisedNumber, Step, StepState, StreamCursor
from .schedule import Repeated, Schedule, ScheduledRun
from .snapshot import Snapshot, SnapshotDisk, SnapshotState
from .vm import Disk, Nic, Pending, Vm, VmState

__all__ = [
    "FINAL",
    "Address",
    "AddressRange",
    "AuditEvent",
    "Backup",
    "BackupState",
    "Disk",
    "Grant",
    "IdempotencyKey",
    "Image",
    "ImageCopy",
    "Iso",
    "IsoCopy",
    "Job",
    "JobState",
    "JoinToken",
    "Lock",
    "Look",
    "Network",
    "Nic",
    "Node",
    "NodeState",
    "ObjectNumber",
    "Pending",
    "Pool",
    "PoolOnNode",
    "RaisedNumber",
    "Repeated",
    "Role",
    "Schedule",
    "ScheduledRun",
    "Snapshot",
    "SnapshotDisk",
    "SnapshotState",
    "Step",
    "StepState",
    "StreamCursor",
    "Tenant",
    "Token",
    "User",
    "Vm",
    "VmState",
    "new_id",
]
