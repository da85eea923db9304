"""The horizon: below it every transaction of this database has ended, so nothing can appear there any more.

`pg_snapshot_xmin` would do, but it looks at the whole server: one open or prepared transaction in any other database
would stall every reader here. This horizon skips those that are positively known to belong to another database;
whatever is unknown counts as ours, which may delay a reader for one poll and never makes it skip a row.
"""

# STABLE is part of the promise: the function must see the snapshot of the very statement that reads the rows below the
# horizon. With a younger snapshot it would allow rows which that statement cannot see yet, and they would be skipped.
HORIZON_DDL = (
    """
    CREATE FUNCTION dockyard_horizon() RETURNS xid8 LANGUAGE sql STABLE AS $$
        WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS snapshot),
        running AS MATERIALIZED (SELECT pg_snapshot_xip(snapshot) AS xid FROM now),
        foreign_xids AS (
            SELECT locks.transactionid::text::bigint AS xid
              FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid)
             WHERE EXISTS (SELECT FROM running)
               AND locks.locktype = 'transactionid' AND locks.mode = 'ExclusiveLock' AND locks.granted
               AND activity.datid IS DISTINCT FROM (SELECT oid FROM pg_database WHERE datname = current_database())
               AND activity.datid IS NOT NULL
            UNION ALL
            SELECT transaction::text::bigint FROM pg_prepared_xacts
             WHERE EXISTS (SELECT FROM running) AND database <> current_database()
        )
        SELECT coalesce(
            (SELECT xid FROM running
              WHERE xid::text::bigint % 4294967296 NOT IN (SELECT xid FROM foreign_xids)
              ORDER BY xid LIMIT 1),
            (SELECT pg_snapshot_xmax(snapshot) FROM now))
    $$
    """,
)
