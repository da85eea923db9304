"""The horizon: below it every transaction of this database has ended, so nothing can appear there any more.

`pg_snapshot_xmin` would do, but it looks at the whole server: one open or prepared transaction in any other database
would stall every reader here. This horizon skips those that are positively known to belong to another database;
whatever is unknown counts as ours, which may delay a reader for one poll and never makes it skip a row.
"""

# STABLE is part of the promise: the function must see the snapshot of the very statement that reads the rows below the
# horizon. With a younger snapshot it would allow rows which that statement cannot see yet, and they would be skipped.
HORIZON_DDL = (
    """
    CREATE FUNCTION dockyard_horizon() RETURNS xid8 LANGUAGE plpgsql STABLE AS $$
    DECLARE
        now pg_snapshot := pg_current_snapshot();
        horizon xid8 := pg_snapshot_xmax(now);
    BEGIN
        IF pg_snapshot_xmin(now) = horizon THEN
            RETURN horizon;
        END IF;
        SELECT coalesce(min(running.xid::text::bigint)::text::xid8, horizon) INTO horizon
          FROM pg_snapshot_xip(now) AS running (xid)
         WHERE running.xid::text::bigint % 4294967296 NOT IN (
               SELECT locks.transactionid::text::bigint
                 FROM pg_locks AS locks JOIN pg_stat_get_activity(NULL) AS activity ON activity.pid = locks.pid
                WHERE locks.locktype = 'transactionid' AND locks.mode = 'ExclusiveLock' AND locks.granted
                  AND activity.datid <> (SELECT oid FROM pg_database WHERE datname = current_database())
               UNION ALL
               SELECT transaction::text::bigint FROM pg_prepared_xacts WHERE database <> current_database());
        RETURN horizon;
    END
    $$
    """,
)
