from django.db import migrations


def make(apps, schema_editor):
    tenant = apps.get_model("cluster", "Tenant")
    tenant.objects.get_or_create(name="default")


class Migration(migrations.Migration):
    """The built-in tenant of VMs that are made without naming one."""

    dependencies = [("cluster", "0001_initial")]
    operations = [migrations.RunPython(make, migrations.RunPython.noop)]
