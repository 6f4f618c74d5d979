"""What runs inside Celery: signals, the request class and bootsteps."""
