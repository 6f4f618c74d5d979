"""The demo's own business data: what the jobs of ``inbox`` and ``outbox`` write into their own database."""
