"""The fields of RollupState say what they hold. Its values are kept."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tasks_demo', '0005_ended_by_itself'),
    ]

    operations = [
        migrations.RenameField('rollupstate', 'fresh', 'first_pass_event'),
        migrations.RenameField('rollupstate', 'again', 'second_pass_event'),
        migrations.RenameField('rollupstate', 'mark', 'second_pass_limit'),
        migrations.RenameField('rollupstate', 'marked', 'limit_set_at'),
        migrations.RenameField('rollupstate', 'back', 'backfill_minute'),
        migrations.RenameField('rollupstate', 'folded', 'folded_at'),
        migrations.AlterField('rollupstate', 'first_pass_event', models.BigIntegerField(default=0, help_text="The last event of the first pass.")),
        migrations.AlterField('rollupstate', 'second_pass_event', models.BigIntegerField(default=0, help_text="The last event of the second pass.")),
        migrations.AlterField('rollupstate', 'second_pass_limit', models.BigIntegerField(default=0, help_text="The second pass stops here: first_pass_event as it was at limit_set_at.")),
        migrations.AlterField('rollupstate', 'limit_set_at', models.FloatField(default=0.0, help_text="Seconds since the epoch.")),
        migrations.AlterField('rollupstate', 'backfill_minute', models.BigIntegerField(null=True, help_text="The next past minute to count, seconds since the epoch; empty: all are counted.")),
        migrations.AlterField('rollupstate', 'folded_at', models.FloatField(default=0.0, help_text="When the last fold began, seconds since the epoch.")),
    ]
