//! Table `need`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::offer::Need;
use crate::store::error::Error;
use crate::store::rows::{CountRow, NeedRow, to_json};
use crate::store::tx::{Sql, Tx, args};

const INSERT_NEEDS: Sql = Sql {
    sqlite: "INSERT INTO need (backbone, task, splits_json, method, gpu_memory_mib, labels_json)
             SELECT value ->> 'backbone', value ->> 'task', value ->> 'splits_json', value ->> 'method',
                    value ->> 'gpu_memory_mib', value ->> 'labels_json'
               FROM json_each($1) WHERE true
             ON CONFLICT DO NOTHING",
    postgres: "INSERT INTO need (backbone, task, splits_json, method, gpu_memory_mib, labels_json)
               SELECT x.* FROM json_to_recordset($1::json)
                      AS x(backbone text, task text, splits_json text, method text, gpu_memory_mib bigint,
                           labels_json text)
                ORDER BY 1, 2, 3, 4, 5, 6
               ON CONFLICT DO NOTHING",
};
const NEEDS: Sql = Sql::both("SELECT * FROM need ORDER BY id");
const QUEUED_NEEDS: Sql = Sql::both(
    "SELECT need AS key, count(*) AS count FROM trial WHERE sweep = $1 AND state = 'queued' GROUP BY need ORDER BY 1",
);

/// A need to be written, if it is new.
#[derive(Debug, Serialize)]
struct NeedInsert {
    backbone: String,
    task: String,
    splits_json: String,
    method: String,
    gpu_memory_mib: u64,
    labels_json: String,
}

/// The keys of needs, which are written if they are new.
pub(in crate::store) async fn ids<T: Tx>(
    tx: &mut T,
    wanted: &BTreeSet<&Need>,
) -> Result<BTreeMap<Need, i64>, Error> {
    insert(tx, wanted).await?;
    Ok(all(tx).await?.into_iter().map(|(id, need)| (need, id)).collect())
}

async fn insert<T: Tx>(tx: &mut T, needs: &BTreeSet<&Need>) -> Result<(), Error> {
    let row = |need: &&Need| NeedInsert {
        backbone: need.backbone.clone(),
        task: need.task.clone(),
        splits_json: to_json(&need.splits),
        method: need.method.clone(),
        gpu_memory_mib: need.gpu_memory_mib,
        labels_json: to_json(&need.labels),
    };
    let rows: Vec<_> = needs.iter().map(row).collect();
    tx.execute(INSERT_NEEDS, args![to_json(&rows)]).await?;
    Ok(())
}

/// All needs, with their keys.
pub(in crate::store) async fn all<T: Tx>(tx: &mut T) -> Result<Vec<(i64, Need)>, Error> {
    let rows: Vec<NeedRow> = tx.fetch(NEEDS, args![]).await?;
    rows.iter().map(|row| Ok((row.id, row.need()?))).collect()
}

pub(in crate::store) async fn queued<T: Tx>(tx: &mut T, sweep: i64) -> Result<Vec<CountRow>, Error> {
    Ok(tx.fetch(QUEUED_NEEDS, args![sweep]).await?)
}
