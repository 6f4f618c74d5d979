"""The Django app with the shop's tables."""

from __future__ import annotations

from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "tasks_demo.demo.shop"
    label = "shop"
    default_auto_field = "django.db.models.BigAutoField"
