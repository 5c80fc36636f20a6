//! What each command of `worker` does: arguments in, library calls, text out.

use std::collections::HashSet;
use std::io::Write;
use std::num::NonZero;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use sweeps::value::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use worker::agent::{self, TrainerCommand};
use worker::artifacts::Artifacts;
use worker::home::Home;
use worker::trainer::{self, Job, Pipe, Session};
use worker::{doctor, import};

use crate::cli;

/// Shorter than the time that schedulers commonly leave between SIGTERM and SIGKILL.
const LEAVE_WITHIN: Duration = Duration::from_secs(20);

/// What an import does not do by itself.
const OFFERED: &str = "a worker that is running offers it once it is restarted";

fn home(arg: &cli::HomeArg) -> anyhow::Result<Home> {
    let path = arg.home.clone().or_else(Home::default_path);
    let path = path.context("neither HOME nor XDG_DATA_HOME is set; say where the home is with --home")?;
    // Trainers are told the same path, and what is linked from the home must not depend on where this runs.
    let path = std::path::absolute(&path).with_context(|| format!("cannot use `{}`", path.display()))?;
    Ok(Home::open(path)?)
}

pub(crate) fn start(args: cli::Start) -> anyhow::Result<()> {
    let home = home(&args.home)?;
    let token = match std::env::var("SWEEP_TOKEN") {
        Ok(token) if !token.is_empty() => Some(token),
        Ok(_) | Err(std::env::VarError::NotPresent) => None,
        Err(std::env::VarError::NotUnicode(_)) => bail!("SWEEP_TOKEN is not UTF-8"),
    };
    let capabilities = agent::capabilities(&home, args.labels.iter().cloned().collect());
    if capabilities.backbones.is_empty() || capabilities.tasks.is_empty() {
        tracing::warn!(
            home = %home.root().display(),
            backbones = capabilities.backbones.len(),
            tasks = capabilities.tasks.len(),
            "nothing can be leased: the home lacks backbones or data sets (worker import)"
        );
    }
    let artifacts = artifacts_location(&args.artifacts, &home)?;
    // Better now than at the end of the first trial.
    Artifacts::open(&artifacts)?;
    let presence = agent::Presence::announce(home.root());
    let _presence =
        presence.with_context(|| format!("cannot write to the home `{}`", home.root().display()))?;
    let config = agent::Config {
        server: args.server.clone(),
        ca: args.ca.clone(),
        token,
        name: args.name.clone().unwrap_or_else(agent::host_name),
        trainers: trainers(&args, &home, &artifacts)?,
        capabilities,
        leave_within: LEAVE_WITHIN,
        lifetime: lifetime(args.max_lifetime)?,
    };
    // Current-thread: trainers die with the thread that started them, and this one is the process.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let leave = CancellationToken::new();
        tokio::spawn(leave_on_signal(signals()?, leave.clone()));
        Ok(agent::run(config, leave).await?)
    })
}

/// Where artifacts lie, as a trainer that runs elsewhere would understand it.
fn artifacts_location(arg: &cli::ArtifactsArg, home: &Home) -> anyhow::Result<String> {
    match &arg.artifacts {
        Some(url) if url.contains("://") => Ok(url.clone()),
        given => {
            let folder = given.as_ref().map_or_else(|| Artifacts::default_folder(home.root()), Into::into);
            let folder = std::path::absolute(&folder)?;
            folder.to_str().map(str::to_owned).context("the folder of the artifacts is not UTF-8")
        }
    }
}

/// How long this worker may live: what it was told, and no longer than the Slurm job that it is in.
fn lifetime(told: Option<Duration>) -> anyhow::Result<Option<Duration>> {
    let slurm = match std::env::var("SLURM_JOB_END_TIME") {
        Ok(end) => {
            let end: u64 =
                end.trim().parse().with_context(|| format!("SLURM_JOB_END_TIME is `{end}`, no time"))?;
            #[allow(clippy::disallowed_methods, reason = "Slurm gives the end by the clock on the wall")]
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
            Some(Duration::from_secs(end).saturating_sub(now))
        }
        Err(_) => None,
    };
    Ok([told, slurm].into_iter().flatten().min())
}

/// One command a slot; the slots take the devices in turn.
fn trainers(args: &cli::Start, home: &Home, artifacts: &str) -> anyhow::Result<Vec<TrainerCommand>> {
    let slots = args.slots.map_or(args.device.len(), usize::from);
    let threads = args.threads.unwrap_or_else(|| share_of_cores(slots));
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let command = |device: &String| TrainerCommand {
        program: program.clone(),
        args: vec![
            "trainer".into(),
            "--home".into(),
            home.root().into(),
            "--device".into(),
            device.into(),
            "--threads".into(),
            threads.to_string().into(),
            "--artifacts".into(),
            artifacts.into(),
        ],
    };
    Ok(args.device.iter().cycle().take(slots).map(command).collect())
}

/// CPU threads of each of `slots` slots. The number of threads enters the last bits of a result.
fn share_of_cores(slots: usize) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    u32::try_from((cores / slots).max(1)).unwrap_or(1)
}

fn signals() -> std::io::Result<[tokio::signal::unix::Signal; 3]> {
    Ok([
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::user_defined1())?,
    ])
}

/// The first signal asks the agent to leave, the second ends the process; the trainers die with it.
async fn leave_on_signal(
    [mut term, mut int, mut usr1]: [tokio::signal::unix::Signal; 3],
    leave: CancellationToken,
) {
    loop {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = usr1.recv() => {}
        }
        if leave.is_cancelled() {
            tracing::warn!("leaving at once");
            std::process::exit(130);
        }
        leave.cancel();
    }
}

pub(crate) fn drain(args: &cli::Drain) -> anyhow::Result<()> {
    let home = home(&args.home)?;
    let agents = agent::agents(home.root()).context("cannot see which workers run here")?;
    if agents.is_empty() {
        bail!("no worker of the home `{}` runs on this machine", home.root().display());
    }
    for &pid in &agents {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
            .with_context(|| format!("cannot signal worker {pid}"))?;
    }
    let mut out = std::io::stdout().lock();
    while let left = agent::agents(home.root())?
        && left.iter().any(|pid| agents.contains(pid))
    {
        std::thread::sleep(Duration::from_millis(100));
    }
    let pids: Vec<String> = agents.iter().map(ToString::to_string).collect();
    writeln!(out, "left: {}", pids.join(", "))?;
    Ok(())
}

/// What a trial has tuned, by its path, or by its URL in the worker's artifacts.
fn tuned(artifact: &str, artifacts: &cli::ArtifactsArg, home: &Home) -> anyhow::Result<trainer::Tuned> {
    let bytes = if artifact.contains("://") {
        Artifacts::open(&artifacts_location(artifacts, home)?)?.get(artifact)?
    } else {
        std::fs::read(artifact).with_context(|| format!("cannot read `{artifact}`"))?
    };
    trainer::Tuned::decode(&bytes).with_context(|| format!("`{artifact}` is no artifact"))
}

pub(crate) fn predict(args: &cli::Predict) -> anyhow::Result<()> {
    let home = home(&args.home)?;
    let tuned = tuned(&args.artifact, &args.artifacts, &home)?;
    let mut session = Session::new(home, &args.device, args.threads.unwrap_or_else(|| share_of_cores(1)))?;
    match (&tuned.recipe.setr, &args.maps) {
        (None, None) => predict_classes(&tuned, args, &mut session),
        (Some(_), Some(folder)) => predict_maps(&tuned, args, folder, &mut session),
        (Some(_), None) => {
            bail!("`{}` labels pixels: say where its label maps go with --maps FOLDER", args.artifact)
        }
        (None, Some(_)) => bail!("`{}` labels whole images: leave --maps away", args.artifact),
    }
}

/// A label map for every image, at the image's path below `folder`; a line of CSV each says so.
fn predict_maps(
    tuned: &trainer::Tuned,
    args: &cli::Predict,
    folder: &Path,
    session: &mut Session,
) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    writeln!(out, "file,map")?;
    let mut written = HashSet::new();
    trainer::label_maps(tuned, &args.images, session, |trainer::LabelMap { file, map }| {
        let name = Path::new(&file).with_extension("png");
        if !written.insert(name.clone()) {
            bail!("`{file}` has the name of another image but for its ending: their maps would be one file");
        }
        let path = folder.join(&name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot write `{}`", parent.display()))?;
        }
        let mut png = std::io::Cursor::new(Vec::new());
        map.write_to(&mut png, image::ImageFormat::Png)?;
        write_whole(&path, png.get_ref())?;
        Ok(writeln!(out, "{},{}", csv_field(&file), csv_field(&name.to_string_lossy()))?)
    })?;
    Ok(out.flush()?)
}

fn predict_classes(tuned: &trainer::Tuned, args: &cli::Predict, session: &mut Session) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let columns: Vec<String> = (0..tuned.classes()?).map(|class| format!("p{class}")).collect();
    // Nothing is printed of an artifact that turns out to be of no use here.
    let mut header = Some(format!("file,class,{}", columns.join(",")));
    trainer::predict(tuned, &args.images, session, |predictions| {
        if let Some(header) = header.take() {
            writeln!(out, "{header}")?;
        }
        for prediction in predictions {
            let probabilities: Vec<String> =
                prediction.probabilities.iter().map(ToString::to_string).collect();
            writeln!(
                out,
                "{},{},{}",
                csv_field(&prediction.file),
                prediction.class,
                probabilities.join(",")
            )?;
        }
        Ok::<(), anyhow::Error>(())
    })?;
    Ok(out.flush()?)
}

/// In quotes where it needs them (RFC 4180).
fn csv_field(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\"")).into()
    } else {
        text.into()
    }
}

pub(crate) fn trainer(args: cli::Trainer) -> anyhow::Result<()> {
    let pipe = Pipe::claim_stdout()?;
    let mut session = Session::new(Home::open(args.home)?, &args.device, args.threads)?;
    Ok(trainer::serve(&mut session, &Artifacts::open(&args.artifacts)?, pipe)?)
}

pub(crate) fn train(args: &cli::Train) -> anyhow::Result<()> {
    let (job, start) = read_job(&args.file).with_context(|| format!("in `{}`", args.file.display()))?;
    let home = home(&args.home)?;
    let start = start.map(|start| tuned(&start, &args.artifacts, &home)).transpose()?;
    let mut session = Session::new(home, &args.device, args.threads.unwrap_or_else(|| share_of_cores(1)))?;
    let mut out = std::io::stdout().lock();
    let mut lost = None;
    let mut print = |epoch: u32, metrics: &trainer::Metrics| {
        let written = match args.output {
            cli::Output::Table => {
                writeln!(out, "epoch {epoch}/{}  {}", job.recipe.epochs_in_all(), figures(metrics))
            }
            cli::Output::Json => {
                writeln!(out, "{}", serde_json::json!({"epoch": epoch, "metrics": metrics}))
            }
        };
        lost = lost.take().or(written.err());
    };
    let outcome = trainer::run_from(&job, start.as_ref(), None, &mut session, &mut print);
    if let Some(error) = lost {
        return Err(error.into());
    }
    let outcome = outcome.map_err(|error| {
        let class = serde_json::to_value(error.class).ok();
        let class = class.as_ref().and_then(serde_json::Value::as_str).unwrap_or("failed").to_owned();
        anyhow::anyhow!("{class}: {}", error.message)
    })?;
    let trainer::Outcome::Finished(tuned) = outcome else { bail!("the run was asked to leave") };
    let metrics = tuned.metrics.clone();
    if let Some(path) = &args.artifact {
        write_whole(path, &tuned.encode(&[])?)?;
    }
    finals(&mut out, args.output, &metrics)
}

fn finals(out: &mut impl Write, output: cli::Output, metrics: &trainer::Metrics) -> anyhow::Result<()> {
    match output {
        cli::Output::Table => {
            for (name, value) in metrics {
                writeln!(out, "{name:<24} {value:.4}")?;
            }
        }
        cli::Output::Json => writeln!(out, "{}", serde_json::json!({"final": metrics}))?,
    }
    Ok(())
}

/// Writes a file so that it appears whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    written.with_context(|| format!("cannot write `{}`", path.display()))
}

fn figures(metrics: &trainer::Metrics) -> String {
    metrics.iter().map(|(name, value)| format!("{name} {value:.4}")).collect::<Vec<_>>().join("  ")
}

/// A recipe with `seed` beside it, and `start` if it starts from what another trial has tuned.
fn read_job(file: &Path) -> anyhow::Result<(Job, Option<String>)> {
    let text = std::fs::read_to_string(file).context("cannot read it")?;
    let mut settings = sweeps::settings::parse(&text)?;
    let seed = match settings.remove("seed") {
        Some(Value::Int(seed)) => seed,
        Some(other) => bail!("seed: must be a whole number, found {}", other.describe()),
        None => bail!("seed: is missing; add a whole number"),
    };
    let start = match settings.remove("start") {
        Some(Value::String(start)) => Some(start),
        Some(other) => bail!("start: must be the path or the URL of an artifact, found {}", other.describe()),
        None => None,
    };
    Ok((Job { recipe: sweeps::recipe::Recipe::from_settings(&settings)?, seed }, start))
}

pub(crate) fn import_backbone(args: cli::ImportBackbone) -> anyhow::Result<()> {
    let home = home(&args.home)?;
    let wish = import::BackboneWish {
        name: args.name,
        heads: args.heads,
        pool: args.pool.map(|pool| parse("--pool", &pool)).transpose()?,
        eps: args.eps,
        image_size: args.image_size,
        position_resize: args.position_resize.map(|how| parse("--position-resize", &how)).transpose()?,
        normalisation: import::normalisation(&args.normalisation)?,
        source: args.source,
    };
    let entry = import::backbone(&home, &args.file, &wish)?;
    let (name, arch, path) = (&entry.name, &entry.sidecar.arch, entry.path.display());
    writeln!(std::io::stdout().lock(), "backbone {name}: {arch}\n{path}\n{OFFERED}")?;
    Ok(())
}

/// A value of an enum by the name that its sidecar uses.
fn parse<T: serde::de::DeserializeOwned>(option: &str, name: &str) -> anyhow::Result<T> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).with_context(|| option.to_owned())
}

pub(crate) fn import_dataset(args: cli::ImportDataset) -> anyhow::Result<()> {
    let home = home(&args.home)?;
    let wish =
        import::DatasetWish { name: args.name, classes: args.classes, link: args.link, source: args.source };
    let entry = import::dataset(&home, &args.folder, &wish)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "task {}: {} classes, splits {}\n{}\n{OFFERED}",
        entry.name,
        entry.info.classes,
        entry.splits.join(", "),
        entry.path.display()
    )?;
    Ok(())
}

pub(crate) fn doctor(args: &cli::Doctor) -> anyhow::Result<()> {
    let report = doctor::examine(&home(&args.home)?);
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    match (&report.training_step, report.damaged.as_slice()) {
        (Err(problem), _) => bail!("a training step does not work: {problem}"),
        (Ok(_), []) => Ok(()),
        (Ok(_), damaged) => bail!("weights that are not what they say: {}", damaged.join("; ")),
    }
}
