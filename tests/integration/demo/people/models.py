"""The user model of a project that has its own (AUTH_USER_MODEL)."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models


class People(BaseUserManager["Person"]):
    def create_superuser(self, email: str, nickname: str, password: str, **more: Any) -> Person:
        person = self.model(email=email, nickname=nickname, is_staff=True, is_superuser=True, **more)
        person.set_password(password)
        person.save()
        return person


class Person(AbstractBaseUser, PermissionsMixin):
    email = models.EmailField(unique=True)
    nickname = models.CharField(max_length=20)
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)

    objects = People()

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS = ("nickname",)
