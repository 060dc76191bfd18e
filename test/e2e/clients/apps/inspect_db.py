"""Django's inspectdb, with a connection that libpq's variables describe."""
import os
import django
from django.conf import settings
from django.core.management import call_command

settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"],
    "PASSWORD": os.environ["PGPASSWORD"], "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
    "OPTIONS": {"options": "-c statement_timeout=60000"} if os.environ.get("WITH_OPTIONS") else {},
}})
django.setup()
call_command("inspectdb", "--include-views", "--include-partitions")
