//! The command line of `sweep`: verbs, flags and their help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use proto::v1::TrialState;

use crate::format::Spread;
use crate::verbs::diff::Side;

/// Where a coordinator listens unless it was told otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:7741";

#[derive(Debug, Parser)]
#[command(
    name = "sweep",
    version,
    about = "Plan, run and tabulate hyperparameter sweeps",
    after_help = "\
SWEEP is an id, a unique prefix of one, a sweep's name (the newest of that name) or `last`.

Exit codes: 0 ok, 1 something failed on either side, 2 usage or invalid file, 3 not found, 4 refused,
5 coordinator unreachable, 10 the watched sweep ended with failures, 130 the watch was interrupted.

Environment: SWEEP_SERVER, SWEEP_CA, SWEEP_TOKEN (the bearer token of the coordinator), NO_COLOR."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Address of the coordinator
    #[arg(long, global = true, env = "SWEEP_SERVER", default_value = DEFAULT_SERVER, value_name = "URL")]
    pub(crate) server: String,
    /// Certificates (PEM) to trust at an https address, instead of those that this machine trusts
    #[arg(long, global = true, env = "SWEEP_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// How to print: csv and parquet for `results` and `trials`, markdown and latex for `results` and `best`
    #[arg(long, short, visible_alias = "format", global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Csv,
    Parquet,
    Markdown,
    Latex,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check a sweep file; needs no coordinator
    Validate(FileArgs),
    /// Show which method can tune which family of backbones; needs no coordinator
    Methods,
    /// Count what a sweep file would run, and which workers could
    Plan(PlanArgs),
    /// Queue the trials of a sweep file and print the sweep's id
    Submit(SubmitArgs),
    /// List sweeps, newest first
    List(ListArgs),
    /// Show a sweep: counts, failures by class, what no worker can run
    Show(ShowArgs),
    /// Follow a sweep to its end
    Watch(SweepArgs),
    /// List the trials of a sweep
    Trials(TrialsArgs),
    /// Show a trial with every attempt
    Trial(TrialArgs),
    /// Say why a trial is not running: what it waits for, and what each worker lacks
    Explain(ExplainArgs),
    /// Print a trial as a file that `worker train` runs again
    Capture(CaptureArgs),
    /// Tabulate results: mean, 95 % interval and standard deviation over seeds
    Results(ResultsArgs),
    /// Show the best configuration by the objective
    Best(BestArgs),
    /// Compare two configurations, or two sweeps, by a paired test
    Diff(DiffArgs),
    /// Say which axes decide the score
    Importance(ImportanceArgs),
    /// Draw a picture of a sweep
    Plot(PlotArgs),
    /// Write a sweep for Optuna or TensorBoard
    Export(ExportArgs),
    /// Turn a sweep file of another program into one of ours
    Import(ImportArgs),
    /// Lease no further trials of a sweep; running ones go on
    Pause(SweepArgs),
    /// Undo `pause`
    Resume(SweepArgs),
    /// End every trial of a sweep that has not ended
    Cancel(SweepArgs),
    /// Queue failed trials of a sweep again, as if they had never failed
    Requeue(RequeueArgs),
    /// Add what a file has more than a sweep: values, seeds, points of stages
    Extend(ExtendArgs),
    /// List the workers that the coordinator knows, or release one from quarantine
    Workers(WorkersArgs),
    /// Print the JSON Schema of sweep files, for editors
    Schema,
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// The sweep file
    pub(crate) file: PathBuf,
    /// Override a value of the file, as in axes.lr.range.num=5; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Also run the configurations of this file, as `sweep best S --settings` prints them
    #[arg(long, value_name = "JSON")]
    pub(crate) warm_start: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ExtendArgs {
    /// Id, prefix, name or `last`
    pub(crate) sweep: String,
    #[command(flatten)]
    pub(crate) file: FileArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) file: FileArgs,
    /// Count only; ask no coordinator
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) file: FileArgs,
    /// Follow the sweep to its end
    #[arg(long)]
    pub(crate) watch: bool,
    /// Submitting the same key again gives the same sweep [default: name and contents of the file]
    #[arg(long)]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// At most this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// Id, prefix, name or `last`
    pub(crate) sweep: String,
}

#[derive(Debug, Args)]
pub(crate) struct RequeueArgs {
    /// Id, prefix, name or `last`
    pub(crate) sweep: String,
    /// The trials that failed, but not those that diverged: these have a result
    #[arg(long, required = true)]
    pub(crate) failed: bool,
    /// Only those that failed with this class, as in cuda_oom; may be repeated
    #[arg(long = "class", value_name = "CLASS", value_parser = failure_class)]
    pub(crate) classes: Vec<sweeps::FailureClass>,
    /// Try them with another value of a parameter, as in batch_size=32; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) changes: Vec<String>,
}

fn failure_class(name: &str) -> Result<sweeps::FailureClass, String> {
    let names = || sweeps::FailureClass::ALL.map(sweeps::FailureClass::name).join(", ");
    sweeps::FailureClass::from_name(name).ok_or_else(|| format!("use one of {}", names()))
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Id, prefix, name or `last`
    pub(crate) sweep: String,
    /// Print the sweep file as it was submitted
    #[arg(long)]
    pub(crate) file: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TrialsArgs {
    /// Id, prefix, name or `last`
    pub(crate) sweep: String,
    /// Only trials in these states, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
    pub(crate) state: Vec<State>,
    /// Only trials for which this holds, as in "task = vtab/dtd and state = failed and lr > 0.1"
    #[arg(long = "where", value_name = "EXPRESSION")]
    pub(crate) filter: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TrialArgs {
    /// Id of the trial
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) trial: i64,
    /// Show the metrics of every epoch
    #[arg(long)]
    pub(crate) points: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Id of the trial; or a sweep whose sampler has yet to choose what to run
    pub(crate) trial_or_sweep: String,
}

#[derive(Debug, Args)]
pub(crate) struct WorkersArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<WorkersVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkersVerb {
    /// Lift the quarantine of a worker, and of all of its name
    Release {
        /// Id or name of the worker
        worker: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CaptureArgs {
    /// Id of the trial
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) trial: i64,
}

#[derive(Debug, Args)]
pub(crate) struct ResultsArgs {
    /// Id, prefix, name or `last`
    pub(crate) sweep: String,
    /// One row per value of a parameter that the file sets beyond `base`, of `backbone`, `task`, `method`, `block` or
    /// `stage`; or per combination of several, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "AXES")]
    pub(crate) rows: Vec<String>,
    /// One column per value, of the same names as --rows
    #[arg(long, value_delimiter = ',', value_name = "AXES")]
    pub(crate) cols: Vec<String>,
    /// The metric to show [default: with --rows or --cols the first of `report`, else all of them]
    #[arg(long)]
    pub(crate) metric: Option<String>,
    /// Only this stage [default: all; with --rows or --cols the last that has results]
    #[arg(long)]
    pub(crate) stage: Option<String>,
    /// Only configurations for which this holds, as in "method = gated and lr > 0.1 and test/top1 < 60"
    #[arg(long = "where", value_name = "EXPRESSION")]
    pub(crate) filter: Option<String>,
    /// What follows a mean in tables
    #[arg(long, value_enum, default_value_t)]
    pub(crate) spread: Spread,
    /// Show published numbers of the same method and task beside; may be repeated
    #[arg(long, value_name = "CSV")]
    pub(crate) compare: Vec<PathBuf>,
    /// Only these rows of the published files, as in "backbone = ViT-B/16 and pretraining = MAE"
    #[arg(long, value_name = "EXPRESSION", requires = "compare")]
    pub(crate) compare_where: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BestArgs {
    /// Id, prefix, name or `last`
    pub(crate) sweep: String,
    /// The best for each value of a parameter that the file sets beyond `base`, of `backbone`, `task`, `method` or
    /// `block`; or for each combination of several, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "AXES")]
    pub(crate) per: Vec<String>,
    /// Choose within this stage [default: the last that has results]
    #[arg(long)]
    pub(crate) stage: Option<String>,
    /// Choose among configurations for which this holds
    #[arg(long = "where", value_name = "EXPRESSION")]
    pub(crate) filter: Option<String>,
    /// What follows a mean in tables
    #[arg(long, value_enum, default_value_t)]
    pub(crate) spread: Spread,
    /// Print their settings alone: a file for `submit --warm-start`
    #[arg(long)]
    pub(crate) settings: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// A sweep, or a configuration of one as SWEEP:NUMBER, with the number that `results` shows
    pub(crate) a: Side,
    /// What to compare it with, written alike
    pub(crate) b: Side,
}

#[derive(Debug, Args)]
pub(crate) struct ImportanceArgs {
    /// Id, prefix, name or `last`
    pub(crate) sweep: String,
    /// Take the best within each value of these axes, separated by commas [default: task]
    #[arg(long, value_delimiter = ',', value_name = "AXES")]
    pub(crate) within: Vec<String>,
    /// The share that counts as the best, between 0 and 0.5
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    pub(crate) top: f64,
    /// Only this stage [default: the first]
    #[arg(long)]
    pub(crate) stage: Option<String>,
    /// Only configurations for which this holds
    #[arg(long = "where", value_name = "EXPRESSION")]
    pub(crate) filter: Option<String>,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 0.5 => Ok(share),
        _ => Err("use a number above 0 and at most 0.5".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct PlotArgs {
    /// Id, prefix, name or `last`
    pub(crate) sweep: String,
    /// What to draw
    #[arg(value_enum)]
    pub(crate) kind: PlotKind,
    /// The file to write, .svg or .png
    #[arg(long, short = 'f', value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// The axis along which `metric` and `heat` are drawn
    #[arg(long, value_name = "AXIS")]
    pub(crate) x: Option<String>,
    /// The other axis of `heat`
    #[arg(long, value_name = "AXIS")]
    pub(crate) y: Option<String>,
    /// A line for each value of these axes, separated by commas [default: task]
    #[arg(long, value_delimiter = ',', value_name = "AXES")]
    pub(crate) by: Vec<String>,
    /// The metric to draw [default: that of the objective]
    #[arg(long)]
    pub(crate) metric: Option<String>,
    /// Only this stage [default: the last that has results; for `parallel` and `importance` the first]
    #[arg(long)]
    pub(crate) stage: Option<String>,
    /// Only configurations for which this holds
    #[arg(long = "where", value_name = "EXPRESSION")]
    pub(crate) filter: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlotKind {
    /// Learning curves of the best configurations, mean and interval over seeds
    Curves,
    /// A metric against an axis, mean and interval over seeds
    Metric,
    /// A metric over two axes
    Heat,
    /// Every configuration as a line through its values
    Parallel,
    /// Which axes decide the score
    Importance,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Whose file it is
    #[arg(value_enum)]
    pub(crate) from: Origin,
    /// The file
    pub(crate) file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Origin {
    /// Weights & Biases
    Wandb,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Id, prefix, name or `last`
    pub(crate) sweep: String,
    /// The program to write for
    #[arg(long, value_enum)]
    pub(crate) to: Target,
    /// For optuna a new study's URL, sqlite:///FILE; for tensorboard a folder
    #[arg(value_name = "URL|FOLDER")]
    pub(crate) place: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    Optuna,
    Tensorboard,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// A trial's state as written on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Waiting,
    Queued,
    Running,
    Succeeded,
    Stopped,
    Failed,
    Cancelled,
}

impl From<State> for TrialState {
    fn from(state: State) -> Self {
        match state {
            State::Waiting => TrialState::Waiting,
            State::Queued => TrialState::Queued,
            State::Running => TrialState::Running,
            State::Succeeded => TrialState::Succeeded,
            State::Stopped => TrialState::Stopped,
            State::Failed => TrialState::Failed,
            State::Cancelled => TrialState::Cancelled,
        }
    }
}
