"""Django: after each commit, Redis is told which paths have changed, for `wake redis`.

Put it into an app, import it in ready() of the AppConfig, and say in each
model where it is to be seen:

    class Order(models.Model):
        def long_poll_paths(self):
            return [f"/api/orders/{self.pk}", "/api/orders"]

update() and bulk_create() of a query set send no signals: call publish() after these,
inside of transaction.on_commit.
"""

import logging

import redis
from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

server = redis.Redis.from_url(
    getattr(settings, "LONG_POLL_REDIS", "redis://127.0.0.1:6379"), socket_timeout=1, socket_connect_timeout=1
)


def publish(*paths):
    """Has long_poll look at these paths now. Without Redis it does so at the next interval."""
    try:
        for path in paths:
            server.publish(f"long_poll:{path}", "")
    except redis.RedisError as error:
        logging.getLogger(__name__).warning("telling redis: %s", error)


@receiver([post_save, post_delete])
def changed(sender, instance, using, **kwargs):
    if hasattr(instance, "long_poll_paths"):
        paths = instance.long_poll_paths()
        transaction.on_commit(lambda: publish(*paths), using=using)
