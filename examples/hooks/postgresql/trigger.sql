-- PostgreSQL: a trigger that tells, at each commit, which paths have changed; whatever
-- made the change: an application, a job, a person in psql. publish.py, beside this
-- file, hears it and publishes to Redis, for `wake redis`. For a table "orders" with the
-- key "id", seen at /api/orders and /api/orders/42:
--
--     CREATE TRIGGER long_poll AFTER INSERT OR UPDATE OR DELETE ON orders
--         FOR EACH ROW EXECUTE FUNCTION long_poll_changed('/api/orders');
--
-- NOTIFY sends at the commit, sends nothing after a rollback, and sends once what one
-- transaction says twice. Of a change of very many rows, the collection alone is worth
-- telling: FOR EACH STATEMENT.
CREATE OR REPLACE FUNCTION long_poll_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_LEVEL = 'ROW' THEN
        PERFORM pg_notify('long_poll', TG_ARGV[0] || '/' || COALESCE(NEW.id, OLD.id));
    END IF;
    PERFORM pg_notify('long_poll', TG_ARGV[0]);
    RETURN NULL;
END $$;
