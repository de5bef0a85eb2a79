import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models import OuterRef, Subquery


def whose(apps, schema_editor):
    """A disk is its VM's tenant's; those that outlived their VM are the built-in tenant's."""
    disks, vms = (apps.get_model("cluster", name).objects for name in ("Disk", "Vm"))
    vm = vms.filter(pk=OuterRef("vm"))
    disks.filter(vm__isnull=False).update(
        tenant=Subquery(vm.values("tenant")[:1]), owner=Subquery(vm.values("owner")[:1])
    )
    tenant, _made = apps.get_model("cluster", "Tenant").objects.get_or_create(name="default")
    disks.filter(vm__isnull=True).update(tenant=tenant)


class Migration(migrations.Migration):
    dependencies = [("cluster", "0006_snapshots")]
    operations = [
        migrations.AddField(
            "disk",
            "owner",
            models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="disks",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            "disk",
            "pending",
            models.CharField(
                blank=True,
                choices=[("attach", "from its next start on"), ("detach", "until it is off")],
                default="",
                max_length=8,
            ),
        ),
        migrations.AddField(
            "disk",
            "tenant",
            models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="disks",
                to="cluster.tenant",
            ),
        ),
        migrations.AddField("disk", "cache", models.CharField(blank=True, default="", max_length=12)),
        migrations.AddField("disk", "title", models.CharField(blank=True, default="", max_length=200)),
        migrations.RunPython(whose, migrations.RunPython.noop),
    ]
