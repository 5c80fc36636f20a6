//! What must hold in a database at any moment, asked of the database itself: the promises of `docs/reliability.md` as
//! queries. It reads one snapshot, takes no lock, and may run beside a coordinator.

use std::path::Path;

use rusqlite::OpenFlags;
use sqlx::{Connection, PgConnection};

use super::error::{Error, OpenError};
use super::rows::KeyRow;
use super::sqlite;
use super::tx::{Sql, Tx, args};

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What should hold.
    pub invariant: &'static str,
    /// How often it does not.
    pub count: i64,
}

/// Why a database could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the database cannot be read; it must be one that this coordinator has opened before")]
    Read(#[source] Error),
}

/// How many invariants there are.
pub const INVARIANT_COUNT: usize = INVARIANTS.len();

/// Each counts violations.
const INVARIANTS: &[(&str, Sql)] = &[
    (
        "I1: a trial has a result exactly when it succeeded, or its last score when it was stopped",
        Sql::both(
            "SELECT count(*) AS key FROM trial t LEFT JOIN result r ON r.trial = t.id
              WHERE (t.state IN ('succeeded', 'stopped')) <> (r.trial IS NOT NULL)",
        ),
    ),
    (
        "I2: a result is of the trial's last attempt, which succeeded or was stopped",
        Sql::both(
            "SELECT count(*) AS key FROM result r JOIN trial t ON t.id = r.trial
               LEFT JOIN attempt a ON a.trial = r.trial AND a.number = r.attempt
                                  AND (a.how = 'stopped' OR (a.how = 'succeeded' AND a.digest = r.digest))
              WHERE r.attempt <> t.attempt OR a.trial IS NULL",
        ),
    ),
    (
        "a result that was taken over is that of the trial it names, of the same recipe and seed",
        Sql::both(
            "SELECT count(*) AS key FROM result r
               JOIN trial t ON t.id = r.trial
               JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config
               LEFT JOIN result f ON f.trial = r.origin AND f.origin IS NULL AND f.metrics_json = r.metrics_json
               LEFT JOIN trial o ON o.id = f.trial AND o.seed = t.seed AND o.state = 'succeeded'
               LEFT JOIN configuration d ON d.sweep = o.sweep AND d.number = o.config AND d.hash = c.hash
              WHERE r.origin IS NOT NULL AND d.hash IS NULL",
        ),
    ),
    (
        "I3: attempts are numbered from 1 without gaps",
        Sql::both(
            "SELECT count(*) AS key FROM (SELECT t.id FROM trial t LEFT JOIN attempt a ON a.trial = t.id
                                    GROUP BY t.id, t.attempt
                                   HAVING count(a.number) <> t.attempt OR coalesce(max(a.number), 0) <> t.attempt) x",
        ),
    ),
    (
        "I4: a trial has a lease, of its attempt and worker, exactly when it runs",
        Sql::both(
            "SELECT count(*) AS key FROM trial t
               LEFT JOIN lease l ON l.trial = t.id AND l.attempt = t.attempt AND l.worker = t.worker
              WHERE (t.state = 'running') <> (l.trial IS NOT NULL)",
        ),
    ),
    (
        "I4: a lease belongs to a running trial",
        Sql::both(
            "SELECT count(*) AS key FROM lease l LEFT JOIN trial t ON t.id = l.trial AND t.attempt = l.attempt
                                                           AND t.state = 'running'
              WHERE t.id IS NULL",
        ),
    ),
    (
        "I5: a worker has no more leases than slots",
        Sql::both(
            "SELECT count(*) AS key FROM (SELECT w.id FROM worker w JOIN lease l ON l.worker = w.id
                                    GROUP BY w.id, w.slots HAVING count(*) > w.slots) x",
        ),
    ),
    (
        "I6: an attempt is open exactly when its trial runs it",
        Sql::both(
            "SELECT count(*) AS key FROM attempt a JOIN trial t ON t.id = a.trial
              WHERE (a.how IS NULL) <> (t.state = 'running' AND t.attempt = a.number)
                 OR (a.how IS NULL) <> (a.ended IS NULL)",
        ),
    ),
    (
        "I6: a trial ends once, and once more each time it is revived",
        Sql::both(
            "SELECT count(*) AS key FROM (SELECT trial FROM event WHERE trial > 0 GROUP BY trial
                                   HAVING count(*) FILTER (WHERE kind IN ('succeeded', 'stopped', 'failed', 'cancelled'))
                                        > 1 + count(*) FILTER (WHERE kind = 'revived')) x",
        ),
    ),
    (
        "I7: a sweep has its file and its configurations",
        Sql::both(
            "SELECT count(*) AS key FROM sweep s LEFT JOIN source f ON f.sweep = s.number
              WHERE f.sweep IS NULL
                 OR s.configurations <> (SELECT count(*) FROM configuration c WHERE c.sweep = s.number)
                                      + (SELECT coalesce(sum(g.configurations), 0) FROM choice g
                                          WHERE g.sweep = s.number AND g.state = 'waiting')
                                      + (SELECT coalesce(sum(y.size - y.made), 0) FROM study y
                                          WHERE y.sweep = s.number AND y.state = 'open')",
        ),
    ),
    (
        "I8: failures stay within max_attempts",
        Sql {
            sqlite: "SELECT count(*) AS key FROM trial t JOIN sweep s ON s.number = t.sweep
                      WHERE t.failures > max(1, s.retry_json ->> 'max_attempts')",
            postgres: "SELECT count(*) AS key FROM trial t JOIN sweep s ON s.number = t.sweep
                        WHERE t.failures > greatest(1, (s.retry_json::json ->> 'max_attempts')::bigint)",
        },
    ),
    (
        "I8: a sweep's counters are those of its trials",
        Sql::both(
            "SELECT count(*) AS key FROM sweep s
              WHERE s.trials <> s.waiting + (SELECT count(*) FROM trial t WHERE t.sweep = s.number)
                 OR s.waiting <> (SELECT coalesce(sum(g.trials), 0) FROM choice g
                                   WHERE g.sweep = s.number AND g.state = 'waiting')
                              + (SELECT coalesce(sum((y.size - y.made) * y.seeds), 0) FROM study y
                                   WHERE y.sweep = s.number AND y.state = 'open')
                 OR s.stopped <> (SELECT count(*) FROM trial t WHERE t.sweep = s.number AND t.state = 'stopped')
                 OR s.queued <> (SELECT count(*) FROM trial t WHERE t.sweep = s.number AND t.state = 'queued')
                 OR s.running <> (SELECT count(*) FROM trial t WHERE t.sweep = s.number AND t.state = 'running')
                 OR s.succeeded <> (SELECT count(*) FROM trial t WHERE t.sweep = s.number AND t.state = 'succeeded')
                 OR s.failed <> (SELECT count(*) FROM trial t WHERE t.sweep = s.number AND t.state = 'failed')
                 OR s.cancelled <> (SELECT count(*) FROM trial t WHERE t.sweep = s.number AND t.state = 'cancelled')",
        ),
    ),
    (
        "a sweep is over exactly when its trials are",
        Sql::both(
            "SELECT count(*) AS key FROM sweep
              WHERE (state IN ('ended', 'cancelled')) <> (waiting + queued + running = 0)",
        ),
    ),
    (
        "a group waits for its trials that have not ended, and for those that stages before it will open",
        Sql::both(
            "SELECT count(*) AS key FROM choice g JOIN stage s ON s.sweep = g.sweep AND s.number = g.stage
              WHERE NOT EXISTS (SELECT 1 FROM choice p WHERE p.sweep = g.sweep AND p.stage = s.parent AND p.state = 'waiting')
                AND NOT EXISTS (SELECT 1 FROM study y WHERE y.sweep = g.sweep AND s.parent = 0 AND y.state = 'open')
                AND g.state <> 'cancelled'
                AND g.pending <> (SELECT count(*) FROM member m
                                    JOIN trial t ON t.sweep = m.sweep AND t.config = m.config
                                   WHERE m.sweep = g.sweep AND m.stage = g.stage AND m.choice = g.number
                                     AND t.ended IS NULL)",
        ),
    ),
    (
        "a group that waits for nothing has opened, or could not",
        Sql::both(
            "SELECT count(*) AS key FROM choice WHERE state = 'waiting' AND pending = 0",
        ),
    ),
    (
        "a study has as many suggestions as it has made, numbered from 0",
        Sql::both(
            "SELECT count(*) AS key FROM (SELECT y.number FROM study y
                                     LEFT JOIN suggestion u ON u.sweep = y.sweep AND u.study = y.number AND u.number IS NOT NULL
                                    GROUP BY y.sweep, y.number, y.made
                                   HAVING count(u.number) <> y.made OR coalesce(max(u.number), -1) <> y.made - 1) x",
        ),
    ),
    (
        "a configuration that was made has a parent of the stage before, and only such a one",
        Sql::both(
            "SELECT count(*) AS key FROM configuration c
               JOIN stage s ON s.sweep = c.sweep AND s.name = c.stage
               LEFT JOIN stage p ON p.sweep = s.sweep AND p.number = s.parent
               LEFT JOIN configuration k ON k.sweep = c.sweep AND k.number = c.parent
              WHERE (s.parent IS NULL) <> (c.parent IS NULL) OR p.name <> k.stage",
        ),
    ),
    (
        "who waits for what trials have in common waits for one that is on its way",
        Sql::both(
            "SELECT count(*) AS key FROM trial t
               JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config
              WHERE t.state = 'queued' AND t.not_before = 4611686018427387904
                AND NOT EXISTS (SELECT 1 FROM configuration d
                                  JOIN trial u ON u.sweep = d.sweep AND u.config = d.number AND u.seed = t.seed
                                              AND coalesce(u.start_from, 0) = coalesce(t.start_from, 0)
                                              AND u.ended IS NULL
                                              AND (u.not_before IS NULL OR u.not_before <> 4611686018427387904)
                                 WHERE d.sweep = c.sweep AND d.prefix = c.prefix)",
        ),
    ),
    (
        "events are numbered from 1 without gaps",
        Sql::both(
            "SELECT count(*) AS key FROM (SELECT s.number FROM sweep s LEFT JOIN event e ON e.sweep = s.number
                                    GROUP BY s.number, s.last_seq
                                   HAVING count(e.seq) <> s.last_seq OR coalesce(max(e.seq), 0) <> s.last_seq
                                       OR min(e.seq) <> 1) x",
        ),
    ),
    (
        "points belong to attempts",
        Sql::both(
            "SELECT count(*) AS key FROM point p LEFT JOIN attempt a ON a.trial = p.trial AND a.number = p.attempt
              WHERE a.trial IS NULL",
        ),
    ),
];

/// The invariants that do not hold in the database of a URL.
///
/// # Errors
/// When it is away, or not a coordinator's.
pub async fn check(url: &str) -> Result<Vec<Violation>, CheckError> {
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = Path::new(path.trim_start_matches("//"));
        if !path.is_file() {
            return Err(CheckError::Open(OpenError::Missing(path.to_owned())));
        }
        let connection = sqlite::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
        let mut connection =
            connection.map_err(|error| CheckError::Open(OpenError::Connect(error.into())))?;
        ask(&mut connection).await
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let connection = PgConnection::connect(url).await;
        let mut connection =
            connection.map_err(|error| CheckError::Open(OpenError::Connect(error.into())))?;
        ask(&mut connection).await
    } else {
        Err(CheckError::Open(OpenError::Url("is neither of SQLite nor of Postgres".to_owned())))
    }
}

const BEGIN: Sql = Sql { sqlite: "BEGIN", postgres: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" };

async fn ask<T: Tx>(tx: &mut T) -> Result<Vec<Violation>, CheckError> {
    let reading = |failure| CheckError::Read(Error::from(failure));
    tx.execute(BEGIN, args![]).await.map_err(reading)?;
    let mut violations = Vec::new();
    for (invariant, sql) in INVARIANTS {
        let row: Option<KeyRow> = tx.fetch_one(*sql, args![]).await.map_err(reading)?;
        let count = row.map_or(0, |row| row.key);
        if count > 0 {
            violations.push(Violation { invariant, count });
        }
    }
    Ok(violations)
}
