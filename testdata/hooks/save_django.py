# Saves orders by Django, with the hook of examples/hooks/django: see examples_test.go.
import importlib.util
import sys

import django
from django.conf import settings
from django.db import connection, models, transaction

hook, server = sys.argv[1:]
settings.configure(
    LONG_POLL_REDIS=server,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    USE_TZ=True,
)
django.setup()
spec = importlib.util.spec_from_file_location("long_poll", hook)
spec.loader.exec_module(importlib.util.module_from_spec(spec))


class Order(models.Model):
    status = models.TextField()

    class Meta:
        app_label = "orders"

    def long_poll_paths(self):
        return [f"/api/orders/{self.pk}", "/api/orders"]


def step(text):
    print(text, flush=True)
    input()


with connection.schema_editor() as editor:
    editor.create_model(Order)
try:
    with transaction.atomic():
        Order(id=1, status="lost").save()
        raise ValueError
except ValueError:
    pass
with transaction.atomic():
    order = Order(id=7, status="packing")
    order.save()
    step("saved")
step("committed")
order.delete()
step("deleted")
Order(id=8, status="packing").save()
print("without redis")
