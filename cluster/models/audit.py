"""What was done, by whom; and what was asked twice."""

from django.db import models


class AuditEvent(models.Model):
    """One line of the journal; never changed. Holds no secrets."""

    at = models.DateTimeField(auto_now_add=True)
    actor = models.ForeignKey("User", on_delete=models.SET_NULL, null=True, related_name="+")
    username = models.CharField(max_length=64, blank=True)
    role = models.CharField(max_length=24, blank=True)
    tenant = models.ForeignKey("Tenant", on_delete=models.SET_NULL, null=True, related_name="+")
    action = models.CharField(max_length=64)
    subject = models.CharField(max_length=64, blank=True)
    """``<kind>:<id>``"""
    subject_name = models.CharField(max_length=200, blank=True)
    outcome = models.CharField(max_length=16)
    """started, refused, succeeded, failed, cancelled, stuck, resolved, done"""
    job = models.ForeignKey("Job", on_delete=models.SET_NULL, null=True, related_name="+")
    detail = models.JSONField(default=dict)

    class Meta:
        indexes = [models.Index(fields=["subject", "-id"]), models.Index(fields=["tenant", "-id"])]


class IdempotencyKey(models.Model):
    """The answer to a request that carried an ``Idempotency-Key``, kept for 24 hours, made in the same transaction."""

    grant = models.ForeignKey("Grant", on_delete=models.CASCADE, related_name="+")
    endpoint = models.CharField(max_length=200)
    key = models.CharField(max_length=200)
    body_sha256 = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField()
    answer = models.JSONField()
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["grant", "endpoint", "key"], name="one_answer_per_key")]
