//! Failed trials with other parameters: each becomes one of the configuration that has these, which is made if its stage
//! does not have it, of the same groups.

use std::collections::BTreeMap;

use ::sweeps::Recipe;
use ::sweeps::change::{Change, Original};
use ::sweeps::stage::{Child, Opening};

use super::changes::Changes;
use crate::offer::Need;
use crate::store::error::Error;
use crate::store::rows::{MembershipRow, TrialRow, WholeConfigurationRow, corrupt, from_json};
use crate::store::sql::stages::{self, MemberInsert};
use crate::store::sql::sweeps::{self, ConfigurationInsert};
use crate::store::sql::{configurations, history, needs};
use crate::store::tx::Tx;
use crate::trial::TrialId;

/// Gives failed trials of a locked sweep other parameters. What is said of each trial that has got others.
pub(super) async fn apply<T: Tx>(
    tx: &mut T,
    changes: &mut Changes,
    sweep: i64,
    failed: &[TrialRow],
    change: &Change,
) -> Result<BTreeMap<i64, String>, Error> {
    let mut numbers: Vec<i64> = failed.iter().map(|trial| trial.config).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let rows = configurations::whole(tx, sweep, &numbers).await?;
    let mut messages = BTreeMap::new();
    for row in &rows {
        let own: Vec<&TrialRow> = failed.iter().filter(|trial| trial.config == row.number).collect();
        let Some(target) = target(tx, changes, sweep, row, &own, change).await? else { continue };
        let moved: Vec<TrialId> = own.iter().map(|trial| TrialId(trial.id)).collect();
        configurations::move_trials(tx, sweep, &moved, target.number, target.need).await?;
        history::drop_checkpoints(tx, &moved).await?;
        let message =
            format!("{}: configuration #{} in place of #{}", change.describe(), target.number, row.number);
        messages.extend(moved.iter().map(|trial| (trial.0, message.clone())));
    }
    Ok(messages)
}

/// Where trials go.
struct Target {
    number: i64,
    need: i64,
}

/// `None`: the change changes nothing of this configuration.
async fn target<T: Tx>(
    tx: &mut T,
    changes: &mut Changes,
    sweep: i64,
    row: &WholeConfigurationRow,
    own: &[&TrialRow],
    change: &Change,
) -> Result<Option<Target>, Error> {
    let refused = |problem: String| Error::NoChange { number: row.number, problem };
    let recipe = Recipe::from_json(&row.recipe_json)
        .map_err(|error| corrupt("configuration", row.number, error.to_string()))?;
    let settings = from_json("configuration", row.number, &row.settings_json)?;
    let start = configurations::start(tx, sweep, row.number).await?;
    let original = Original {
        settings: &settings,
        recipe: &recipe,
        is_lr_scaled: row.is_lr_scaled != 0,
        start: start.as_deref(),
    };
    let child = change.apply(original).map_err(|error| refused(error.to_string()))?;
    if child.hash == row.hash {
        return Ok(None);
    }
    let known = needs::all(tx).await?;
    let before = own.first().and_then(|trial| known.iter().find(|(id, _)| *id == trial.need));
    let need: Need = before.ok_or(Error::Conflict("need"))?.1.with(&child.recipe);
    let ids = needs::ids(tx, &[&need].into()).await?;
    let need = *ids.get(&need).ok_or(Error::Conflict("need"))?;
    let known = configurations::by_hash(tx, sweep, &row.stage, &child.hash).await?;
    let number = match known {
        Some(number) => {
            let seeds: Vec<i64> = own.iter().map(|trial| trial.seed).collect();
            if let Some(seed) = configurations::taken(tx, sweep, number, &seeds).await? {
                return Err(refused(format!("#{number} is that already, and has a trial of seed {seed}")));
            }
            number
        }
        None => make(tx, changes, sweep, row, &child).await?,
    };
    Ok(Some(Target { number, need }))
}

/// Writes a configuration in the groups of the one that it was made from.
async fn make<T: Tx>(
    tx: &mut T,
    changes: &mut Changes,
    sweep: i64,
    row: &WholeConfigurationRow,
    child: &Child,
) -> Result<i64, Error> {
    let block = Some(row.block.as_str()).filter(|block| !block.is_empty());
    let memberships = configurations::memberships(tx, sweep, row.number).await?;
    check_groups(tx, sweep, row, &memberships, child).await?;
    let number = stages::last_configuration(tx, sweep).await? + 1;
    let rule = changes.sweep(sweep)?.early_stop()?;
    let scope = rule
        .as_ref()
        .and_then(|rule| rule.scope(&row.stage, number as u64, &child.settings, block, child.recipe.epochs));
    let settings_json = ::sweeps::value::canonical(&child.settings);
    let prefix = child.recipe.prefix();
    let new = ConfigurationInsert {
        number,
        stage: &row.stage,
        block: &row.block,
        hash: &child.hash,
        settings_json: &settings_json.expect("the numbers of a change are finite"),
        recipe_json: &child.recipe.to_json(),
        epochs: child.recipe.epochs_in_all(),
        lr: child.recipe.lr,
        is_lr_scaled: i64::from(child.is_lr_scaled),
        parent: row.parent,
        scope: scope.as_ref().map(|scope| scope.text.as_str()),
        bracket: scope.as_ref().map_or(0, |scope| scope.bracket),
        prefix: prefix.as_ref().map(|prefix| prefix.hash.as_str()),
        rewind: prefix.as_ref().and_then(|prefix| prefix.rewind),
        changed_from: Some(row.number),
    };
    sweeps::insert_configurations(tx, sweep, &[new]).await?;
    let member = |row: &MembershipRow| MemberInsert { config: number, stage: row.stage, choice: row.choice };
    stages::insert_members(tx, sweep, &memberships.iter().map(member).collect::<Vec<_>>()).await?;
    changes.sweep(sweep)?.configurations += 1;
    Ok(number)
}

/// Refuses a change of what parts configurations into groups.
async fn check_groups<T: Tx>(
    tx: &mut T,
    sweep: i64,
    row: &WholeConfigurationRow,
    memberships: &[MembershipRow],
    child: &Child,
) -> Result<(), Error> {
    if memberships.is_empty() {
        return Ok(());
    }
    let block = Some(row.block.as_str()).filter(|block| !block.is_empty());
    for stage in stages::stages(tx, sweep).await? {
        let (Some(own), Some(json)) =
            (memberships.iter().find(|own| own.stage == stage.number), &stage.opening_json)
        else {
            continue;
        };
        let opening: Opening = from_json("stage", &stage.name, json)?;
        let key = opening.key(&child.settings, block);
        if key != own.key_json {
            let problem =
                format!("it is of the group {} of stage {}, and would be of {key}", own.key_json, stage.name);
            return Err(Error::NoChange { number: row.number, problem });
        }
    }
    Ok(())
}
