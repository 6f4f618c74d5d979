"""A job that ended with its own error is not lost (docs/decisions/0080). A generated column cannot be altered, so it is made anew."""

import django.db.models.expressions
import django.db.models.lookups
from django.db import migrations, models


def count_again(apps, schema_editor):
    """Delete what was counted by verdict; the next count begins anew."""
    for name in ('RollupState', 'Rollup'):
        apps.get_model('tasks_demo', name).objects.using(schema_editor.connection.alias).all().delete()


class Migration(migrations.Migration):

    dependencies = [
        ('tasks_demo', '0004_worker_and_again'),
    ]

    operations = [
        migrations.RemoveIndex(model_name='tally', name='tally_open'),
        migrations.RemoveIndex(model_name='tally', name='tally_verdict'),
        migrations.RemoveIndex(model_name='tally', name='tally_pattern_verdict'),
        migrations.RemoveIndex(model_name='tally', name='tally_again'),
        migrations.RemoveIndex(model_name='tally', name='tally_broken'),
        migrations.RemoveIndex(model_name='tally', name='tally_outcome'),
        migrations.RemoveIndex(model_name='tally', name='tally_run'),
        migrations.RemoveIndex(model_name='tally', name='tally_unsettled'),
        migrations.RemoveField(model_name='tally', name='verdict'),
        migrations.RemoveField(model_name='tally', name='broken'),
        migrations.AddField(
            model_name='tally',
            name='verdict',
            field=models.GeneratedField(db_persist=True, expression=models.Case(models.When(models.Q(('effects__gte', 2), models.Q(('books', ''), ('returned__gte', 2)), _connector='OR'), then=models.Value('duplicated')), models.When(models.Q(('ended__gt', 0), ('settled__gt', 0), _connector='OR', _negated=True), then=models.Value('unresolved')), models.When(models.Q(models.Q(('effects', 1), models.Q(('books', ''), ('returned', 1)), _connector='OR'), models.Q(('deliveries__gte', 2), ('executions__gte', 2), _connector='OR')), then=models.Value('recovered')), models.When(models.Q(('effects', 1), models.Q(('books', ''), ('returned', 1)), _connector='OR'), then=models.Value('ok')), models.When(models.Q(('quarantined__gt', 0)), then=models.Value('parked')), models.When(models.Q(django.db.models.lookups.In(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), [6, 7])), then=models.Value('dropped')), models.When(models.Q(models.Q(('effects', 0), ('publications__gt', 0), ('quarantined', 0), ('settled__gt', 0), models.Q(('books', ''), _negated=True), models.Q(django.db.models.lookups.In(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), [6, 7]), _negated=True), models.Q(('abandoned', 0), ('run', ''), models.Q(django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 5), models.Q(django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 8), ('executions__gt', 0)), _connector='OR'), _negated=True)), models.Q(('books', ''), ('effects', 0), ('quarantined', 0), ('returned', 0), models.Q(('abandoned__gt', 0), models.Q(('executions', 0), django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 8)), _connector='OR'), models.Q(('suppressed__gt', 0), ('pattern__in', ['dedup_lock', 'inbox']), _negated=True)), _connector='OR'), then=models.Value('lost')), models.When(models.Q(models.Q(('books', ''), models.Q(('settled__gt', 0), ('abandoned', 0), ('run', ''), models.Q(django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 5), models.Q(django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 8), ('executions__gt', 0)), _connector='OR')), _connector='OR'), models.Q(('deliveries__gte', 2), ('executions__gte', 2), _connector='OR')), then=models.Value('recovered')), models.When(models.Q(('books', ''), models.Q(('settled__gt', 0), ('abandoned', 0), ('run', ''), models.Q(django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 5), models.Q(django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 8), ('executions__gt', 0)), _connector='OR')), _connector='OR'), then=models.Value('ok')), default=models.Value('unresolved')), output_field=models.CharField(choices=[('ok', 'ok'), ('recovered', 'recovered'), ('lost', 'lost'), ('duplicated', 'duplicated'), ('parked', 'parked'), ('dropped', 'dropped'), ('unresolved', 'unresolved')], max_length=12)),
        ),
        migrations.AddField(
            model_name='tally',
            name='broken',
            field=models.GeneratedField(db_persist=True, expression=models.Case(models.When(models.Q(models.Q(('effects__gte', 2), ('executions__gte', 2), _connector='OR'), ('pattern__in', ['acks_early', 'claim_first'])), then=models.Value(True)), models.When(models.Q(models.Q(models.Q(('effects', 0), ('publications__gt', 0), ('quarantined', 0), ('settled__gt', 0), models.Q(('books', ''), _negated=True), models.Q(django.db.models.lookups.In(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), [6, 7]), _negated=True), models.Q(('abandoned', 0), ('run', ''), models.Q(django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 5), models.Q(django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 8), ('executions__gt', 0)), _connector='OR'), _negated=True)), models.Q(('books', ''), ('effects', 0), ('quarantined', 0), ('returned', 0), models.Q(('abandoned__gt', 0), models.Q(('executions', 0), django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 8)), _connector='OR'), models.Q(('suppressed__gt', 0), ('pattern__in', ['dedup_lock', 'inbox']), _negated=True)), _connector='OR'), ('pattern__in', ['acks_late', 'outbox'])), then=models.Value(True)), models.When(models.Q(models.Q(models.Q(('effects', 0), ('publications__gt', 0), ('quarantined', 0), ('settled__gt', 0), models.Q(('books', ''), _negated=True), models.Q(django.db.models.lookups.In(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), [6, 7]), _negated=True), models.Q(('abandoned', 0), ('run', ''), models.Q(django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 5), models.Q(django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 8), ('executions__gt', 0)), _connector='OR'), _negated=True)), models.Q(('books', ''), ('effects', 0), ('quarantined', 0), ('returned', 0), models.Q(('abandoned__gt', 0), models.Q(('executions', 0), django.db.models.lookups.Exact(models.ExpressionWrapper(django.db.models.expressions.CombinedExpression(models.F('state'), '%%', models.Value(16)), models.BigIntegerField()), 8)), _connector='OR'), models.Q(('suppressed__gt', 0), ('pattern__in', ['dedup_lock', 'inbox']), _negated=True)), ('effects__gte', 2), _connector='OR'), ('pattern__in', ['dedup_lock', 'inbox'])), then=models.Value(True)), default=models.Value(False)), help_text='The promise of the pattern was broken.', output_field=models.BooleanField()),
        ),
        migrations.AddIndex(
            model_name='tally',
            index=models.Index(condition=models.Q(('verdict', 'unresolved'), ('outcome', 'waiting'), ('outcome', 'running'), ('outcome', 'retrying'), _connector='OR'), fields=['-first_at', 'task_id'], name='tally_open'),
        ),
        migrations.AddIndex(
            model_name='tally',
            index=models.Index(condition=models.Q(models.Q(('verdict', 'ok'), _negated=True), models.Q(('verdict', 'unresolved'), _negated=True)), fields=['verdict', '-first_at'], name='tally_verdict'),
        ),
        migrations.AddIndex(
            model_name='tally',
            index=models.Index(condition=models.Q(models.Q(('verdict', 'ok'), _negated=True), models.Q(('verdict', 'unresolved'), _negated=True)), fields=['pattern', 'verdict', '-first_at'], name='tally_pattern_verdict'),
        ),
        migrations.AddIndex(
            model_name='tally',
            index=models.Index(condition=models.Q(('executions__gte', 2), ('effects__gte', 2), ('suppressed__gt', 0), ('deferred__gt', 0), _connector='OR'), fields=['-first_at', 'task_id'], name='tally_again'),
        ),
        migrations.AddIndex(
            model_name='tally',
            index=models.Index(condition=models.Q(('broken', True)), fields=['broken', '-first_at'], name='tally_broken'),
        ),
        migrations.AddIndex(
            model_name='tally',
            index=models.Index(condition=models.Q(models.Q(('outcome', 'succeeded'), _negated=True), models.Q(('outcome', 'waiting'), _negated=True), models.Q(('outcome', 'running'), _negated=True), models.Q(('outcome', 'retrying'), _negated=True)), fields=['outcome', '-first_at'], name='tally_outcome'),
        ),
        migrations.AddIndex(
            model_name='tally',
            index=models.Index(condition=models.Q(('run', ''), _negated=True), fields=['run', '-first_at'], name='tally_run'),
        ),
        migrations.AddIndex(
            model_name='tally',
            index=models.Index(condition=models.Q(('effects', 0), ('ended__gt', 0), ('settled', 0), models.Q(('books', ''), _negated=True)), fields=['first_at'], name='tally_unsettled'),
        ),
        migrations.RunPython(count_again, migrations.RunPython.noop),
    ]
