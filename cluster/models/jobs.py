"""A job and all that the engine needs to go on after a restart: rows only, no memory."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from .base import IdField


class JobState(models.TextChoices):
    WAITING = "waiting", _("waiting")
    RUNNING = "running", _("running")
    UNDOING = "undoing", _("undoing")
    CANCELLING = "cancelling", _("cancelling")
    SUCCEEDED = "succeeded", _("succeeded")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")
    STUCK = "stuck", _("stuck")


FINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Job(models.Model):
    """One run of an operation. Changed only by compare and set on ``version`` (:func:`cluster.saga.engine.claim`)."""

    id = IdField()
    operation = models.CharField(max_length=40)
    subject = models.CharField(max_length=40)
    """``<kind>:<id>`` of what it is about."""
    subject_name = models.CharField(max_length=200, blank=True)
    tenant = models.ForeignKey("Tenant", on_delete=models.SET_NULL, null=True, related_name="jobs")
    """Whose people may see it; None: only administrators of the cluster."""
    user = models.ForeignKey("User", on_delete=models.SET_NULL, null=True, related_name="jobs")
    grant = models.ForeignKey("Grant", on_delete=models.SET_NULL, null=True, related_name="+")
    parent = models.ForeignKey("Job", on_delete=models.PROTECT, null=True, related_name="children")
    priority = models.SmallIntegerField(default=0)
    params = models.JSONField(default=dict)
    secrets = models.TextField(blank=True)
    """Encrypted JSON of the secret parameters; wiped when the job ends."""
    data = models.JSONField(default=dict)
    """What steps leave for later ones, under the step's name."""
    state = models.CharField(max_length=16, choices=JobState.choices, default=JobState.WAITING)
    version = models.PositiveBigIntegerField(default=1)
    cancel_requested = models.BooleanField(default=False)
    past_pivot = models.BooleanField(default=False)
    undoing = models.BooleanField(default=False)
    """Direction of travel; survives ``stuck``, so that a retry goes on the same way."""
    failures = models.PositiveSmallIntegerField(default=0)
    """Failures where the job can only retry (after the pivot, while undoing); too many make it stuck."""
    waiting_reason = models.JSONField(null=True)
    """Why a running job stands still: {"code", "facts"}. Waiting for locks is read from the lock rows instead."""
    error = models.JSONField(null=True)
    """{"code", "facts", "cause"?, "hint"?}: the first failure, said in the reader's language when it is read."""
    resolution = models.JSONField(null=True)
    """{"outcome", "note", "user", "node", "asked_at", "state": asked | refused | applied, "contradictions"}"""
    leftovers = models.JSONField(default=list)
    """What may be left over after a resolve on nodes that did not answer."""
    created = models.DateTimeField(auto_now_add=True)
    started = models.DateTimeField(null=True)
    finished = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["state", "id"]),
            models.Index(fields=["subject", "-created"]),
            models.Index(fields=["-created", "-id"]),
        ]

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


class StepState(models.TextChoices):
    PENDING = "pending", _("pending")
    RUNNING = "running", _("running")
    DONE = "done", _("done")
    FAILED = "failed", _("failed")
    UNDOING = "undoing", _("being undone")
    UNDONE = "undone", _("undone")
    KEPT = "kept", _("kept")
    """Has no undo, for the written reason."""


class Step(models.Model):
    """One line of a job, and its outbox: under way with ``dispatch`` and no ``answer`` it is sent until answered."""

    id = IdField()
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="steps")
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=40)
    key = models.CharField(max_length=40, blank=True)
    """Which of several equal things (a disk's id) this step is for."""
    state = models.CharField(max_length=12, choices=StepState.choices, default=StepState.PENDING)
    node = models.ForeignKey("Node", on_delete=models.SET_NULL, null=True, related_name="+")
    object = models.CharField(max_length=40, blank=True)
    phase = models.CharField(max_length=6, default="do")
    verb = models.CharField(max_length=40, blank=True)
    long = models.BooleanField(default=False)
    dispatch = models.BigIntegerField(null=True)
    body = models.TextField(blank=True)
    """The message, encrypted when the operation has secrets."""
    attempt = models.PositiveSmallIntegerField(default=0)
    doubts = models.PositiveSmallIntegerField(default=0)
    """How often the current number was answered uncertainly."""
    answer = models.JSONField(null=True)
    """The reply to the current number, until the engine has taken it."""
    heard = models.DateTimeField(null=True)
    """When its node was given the current number, or last spoke of it."""
    waits_for_click = models.BooleanField(default=False)
    progress = models.PositiveSmallIntegerField(default=0)
    facts = models.JSONField(default=dict)
    """Of a move: what its node last said of how far it is (``nodes.contract.messages.Progress``)."""
    error = models.JSONField(null=True)
    started = models.DateTimeField(null=True)
    finished = models.DateTimeField(null=True)

    @property
    def may_have_begun(self) -> bool:
        """Also a failed step may have half happened: all of these are undone."""
        return self.state in (StepState.RUNNING, StepState.DONE, StepState.FAILED, StepState.UNDOING)

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["job", "position"], name="step_position_once_per_job")]
        indexes = [
            # The outbox is asked for at every sweep and must not grow with history.
            models.Index(
                fields=["node"],
                condition=models.Q(state__in=["running", "undoing"], answer__isnull=True),
                name="outbox",
            ),
        ]


class Look(models.Model):
    """A read-only question to a node, asked to settle a pivot in doubt or before a resolve. Only the latest counts."""

    id = IdField()
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="looks")
    step = models.ForeignKey(Step, on_delete=models.CASCADE, related_name="looks")
    node = models.ForeignKey("Node", on_delete=models.CASCADE, related_name="+")
    verb = models.CharField(max_length=40)
    object = models.CharField(max_length=40)
    body = models.TextField()
    answer = models.JSONField(null=True)


class Lock(models.Model):
    """A lock held (``held``) or awaited by a root job. Rows of a job are made together and go together."""

    name = models.CharField(max_length=60)
    """``<kind>:<id>``"""
    exclusive = models.BooleanField()
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="locks")
    held = models.BooleanField(default=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "job"], name="lock_once_per_job")]


class ObjectNumber(models.Model):
    """The last dispatch number given to an object of a node. Grows for ever."""

    node = models.ForeignKey("Node", on_delete=models.CASCADE, related_name="+")
    object = models.CharField(max_length=40)
    number = models.BigIntegerField(default=0)
    counter = models.BigIntegerField(default=0)
    """Of a disk: the agent's counter at the last applied reply; an older observation of it changes nothing."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "object"], name="number_once_per_object")]


class RaisedNumber(models.Model):
    """After a resolve with the node away: told to it at its next hello, before anything runs there."""

    node = models.ForeignKey("Node", on_delete=models.CASCADE, related_name="raised")
    object = models.CharField(max_length=40)
    number = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "object"], name="raised_once_per_object")]


class StreamCursor(models.Model):
    """How far a node's stream has taken effect. Locked and moved in the transaction of the effect."""

    node = models.OneToOneField("Node", on_delete=models.CASCADE, primary_key=True, related_name="cursor")
    run_id = models.CharField(max_length=40, blank=True)
    last = models.CharField(max_length=40, default="0-0")
