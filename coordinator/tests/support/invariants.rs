//! What must hold after every operation, asked of the database itself.

use sqlx::{Connection, PgConnection, SqliteConnection};

/// Each counts violations.
const INVARIANTS: &[(&str, &str)] = &[
    (
        "I1: a trial has a result exactly when it succeeded",
        "SELECT count(*) FROM trial t LEFT JOIN result r ON r.trial = t.id
          WHERE (t.state = 'succeeded') <> (r.trial IS NOT NULL)",
    ),
    (
        "I2: a result is of the trial's last attempt, which succeeded",
        "SELECT count(*) FROM result r JOIN trial t ON t.id = r.trial
           LEFT JOIN attempt a ON a.trial = r.trial AND a.number = r.attempt AND a.how = 'succeeded'
                              AND a.digest = r.digest
          WHERE r.attempt <> t.attempt OR a.trial IS NULL",
    ),
    (
        "I3: attempts are numbered from 1 without gaps",
        "SELECT count(*) FROM (SELECT t.id FROM trial t LEFT JOIN attempt a ON a.trial = t.id
                                GROUP BY t.id, t.attempt
                               HAVING count(a.number) <> t.attempt OR coalesce(max(a.number), 0) <> t.attempt) x",
    ),
    (
        "I4: a trial has a lease, of its attempt and worker, exactly when it runs",
        "SELECT count(*) FROM trial t
           LEFT JOIN lease l ON l.trial = t.id AND l.attempt = t.attempt AND l.worker = t.worker
          WHERE (t.state = 'running') <> (l.trial IS NOT NULL)",
    ),
    (
        "I4: a lease belongs to a running trial",
        "SELECT count(*) FROM lease l LEFT JOIN trial t ON t.id = l.trial AND t.attempt = l.attempt
                                                       AND t.state = 'running'
          WHERE t.id IS NULL",
    ),
    (
        "I5: a worker has no more leases than slots",
        "SELECT count(*) FROM (SELECT w.id FROM worker w JOIN lease l ON l.worker = w.id
                                GROUP BY w.id, w.slots HAVING count(*) > w.slots) x",
    ),
    (
        "I6: an attempt is open exactly when its trial runs it",
        "SELECT count(*) FROM attempt a JOIN trial t ON t.id = a.trial
          WHERE (a.how IS NULL) <> (t.state = 'running' AND t.attempt = a.number)
             OR (a.how IS NULL) <> (a.ended IS NULL)",
    ),
    (
        "I6: a trial ends once",
        "SELECT count(*) FROM (SELECT trial FROM event WHERE trial > 0 AND kind IN ('succeeded', 'failed', 'cancelled')
                                GROUP BY trial HAVING count(*) > 1) x",
    ),
    (
        "I7: a sweep has its file and its configurations",
        "SELECT count(*) FROM sweep s LEFT JOIN source f ON f.sweep = s.number
          WHERE f.sweep IS NULL
             OR s.configurations <> (SELECT count(*) FROM configuration c WHERE c.sweep = s.number)
                                  + (SELECT coalesce(sum(g.configurations), 0) FROM choice g
                                      WHERE g.sweep = s.number AND g.state = 'waiting')",
    ),
    ("I8: failures stay within max_attempts (3 in these tests)", "SELECT count(*) FROM trial WHERE failures > 3"),
    (
        "I8: a sweep's counters are those of its trials",
        "SELECT count(*) FROM sweep s
          WHERE s.trials <> s.waiting + (SELECT count(*) FROM trial t WHERE t.sweep = s.number)
             OR s.waiting <> (SELECT coalesce(sum(g.trials), 0) FROM choice g
                               WHERE g.sweep = s.number AND g.state = 'waiting')
             OR s.stopped <> (SELECT count(*) FROM trial t WHERE t.sweep = s.number AND t.state = 'stopped')
             OR s.queued <> (SELECT count(*) FROM trial t WHERE t.sweep = s.number AND t.state = 'queued')
             OR s.running <> (SELECT count(*) FROM trial t WHERE t.sweep = s.number AND t.state = 'running')
             OR s.succeeded <> (SELECT count(*) FROM trial t WHERE t.sweep = s.number AND t.state = 'succeeded')
             OR s.failed <> (SELECT count(*) FROM trial t WHERE t.sweep = s.number AND t.state = 'failed')
             OR s.cancelled <> (SELECT count(*) FROM trial t WHERE t.sweep = s.number AND t.state = 'cancelled')",
    ),
    (
        "a sweep is over exactly when its trials are",
        "SELECT count(*) FROM sweep
          WHERE (state IN ('ended', 'cancelled')) <> (waiting + queued + running = 0)",
    ),
    (
        "a group waits for its trials that have not ended, and for those that stages before it will open",
        "SELECT count(*) FROM choice g JOIN stage s ON s.sweep = g.sweep AND s.number = g.stage
          WHERE NOT EXISTS (SELECT 1 FROM choice p WHERE p.sweep = g.sweep AND p.stage = s.parent AND p.state = 'waiting')
            AND g.state <> 'cancelled'
            AND g.pending <> (SELECT count(*) FROM member m
                                JOIN trial t ON t.sweep = m.sweep AND t.config = m.config
                               WHERE m.sweep = g.sweep AND m.stage = g.stage AND m.choice = g.number
                                 AND t.ended IS NULL)",
    ),
    (
        "a group that waits for nothing has opened, or could not",
        "SELECT count(*) FROM choice WHERE state = 'waiting' AND pending = 0",
    ),
    (
        "a configuration that was made has a parent of the stage before, and only such a one",
        "SELECT count(*) FROM configuration c
           JOIN stage s ON s.sweep = c.sweep AND s.name = c.stage
           LEFT JOIN stage p ON p.sweep = s.sweep AND p.number = s.parent
           LEFT JOIN configuration k ON k.sweep = c.sweep AND k.number = c.parent
          WHERE (s.parent IS NULL) <> (c.parent IS NULL) OR p.name <> k.stage",
    ),
    (
        "events are numbered from 1 without gaps",
        "SELECT count(*) FROM (SELECT s.number FROM sweep s LEFT JOIN event e ON e.sweep = s.number
                                GROUP BY s.number, s.last_seq
                               HAVING count(e.seq) <> s.last_seq OR coalesce(max(e.seq), 0) <> s.last_seq
                                   OR min(e.seq) <> 1) x",
    ),
    (
        "points belong to attempts",
        "SELECT count(*) FROM point p LEFT JOIN attempt a ON a.trial = p.trial AND a.number = p.attempt
          WHERE a.trial IS NULL",
    ),
];

/// Panics with the names of the invariants that do not hold.
pub(crate) async fn check(url: &str) {
    let mut broken = Vec::new();
    if let Some(path) = url.strip_prefix("sqlite:") {
        let mut connection = SqliteConnection::connect(path).await.unwrap();
        for (name, sql) in INVARIANTS {
            let count: i64 = sqlx::query_scalar(*sql).fetch_one(&mut connection).await.unwrap();
            broken.extend((count > 0).then_some((*name, count)));
        }
    } else {
        let mut connection = PgConnection::connect(url).await.unwrap();
        for (name, sql) in INVARIANTS {
            let count: i64 = sqlx::query_scalar(*sql).fetch_one(&mut connection).await.unwrap();
            broken.extend((count > 0).then_some((*name, count)));
        }
    }
    assert!(broken.is_empty(), "{broken:?}");
}
