"""Django REST framework with simplejwt, in one file: SQLite, JWTAuthentication as it comes, which
reads the user on every request. The least middleware, and database connections that stay open.

Ours are the hash's parameters, and one user.
"""

import os

import django
from django.conf import settings
from django.contrib.auth.hashers import Argon2PasswordHasher

from benchmarks.parameters import ARGON2_MEMORY_KIB, ARGON2_PASSES, EMAIL, PASSWORD

SECRET = "only signs the tokens of a benchmark"


class Argon2(Argon2PasswordHasher):
    memory_cost = ARGON2_MEMORY_KIB
    time_cost = ARGON2_PASSES
    parallelism = 1


settings.configure(
    SECRET_KEY=SECRET,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],  # says how long an answer is
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "rest_framework"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["PEER_DATABASE"],
            "CONN_MAX_AGE": None,
        }
    },
    PASSWORD_HASHERS=[f"{__name__}.Argon2"],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [
            "rest_framework_simplejwt.authentication.JWTAuthentication"
        ],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    },
)
django.setup()

# What follows needs the settings.
from django.contrib.auth.models import User  # noqa: E402 - after configure()
from django.core.management import call_command  # noqa: E402 - after configure()
from django.core.wsgi import get_wsgi_application  # noqa: E402 - after configure()
from django.urls import path  # noqa: E402 - after configure()
from rest_framework.decorators import api_view  # noqa: E402 - after configure()
from rest_framework.request import Request  # noqa: E402 - after configure()
from rest_framework.response import Response  # noqa: E402 - after configure()
from rest_framework_simplejwt.views import TokenObtainPairView  # noqa: E402 - after configure()


@api_view(["GET"])
def me(request: Request) -> Response:
    return Response({"id": request.user.pk})


urlpatterns = [path("token", TokenObtainPairView.as_view()), path("me", me)]
call_command("migrate", verbosity=0)
User.objects.create_user(EMAIL, password=PASSWORD)
app = get_wsgi_application()
