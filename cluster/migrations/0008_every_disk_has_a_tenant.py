import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Apart from the one before: PostgreSQL alters no table of which rows were changed in the same transaction."""

    dependencies = [("cluster", "0007_loose_disks")]
    operations = [
        migrations.AlterField(
            "disk",
            "tenant",
            models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="disks", to="cluster.tenant"
            ),
        ),
    ]
