//! The command line of `worker`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXIT_CODES: &str = "Exit codes: 0 ok or left in good order, 1 failed, with one line on stderr that says why, 2 wrong arguments.";

#[derive(Debug, Parser)]
#[command(name = "worker", version, about = "Leases trials from a coordinator and trains them", after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lease and run trials until told to leave (SIGTERM, SIGINT or SIGUSR1; a second one ends at once)
    Start(Start),
    /// Run one trial here, without a coordinator
    Train(Train),
    /// Tell the workers of this home to leave in good order, and wait until they are gone
    Drain(Drain),
    /// Label images with what a trial has tuned: a CSV line for each, or a label map of its pixels
    Predict(Predict),
    /// Put a backbone or a data set into the worker's home
    #[command(subcommand)]
    Import(Import),
    /// Check libtorch, the devices, the home, and that a training step works
    Doctor(Doctor),
    /// The process that runs trials for the agent, over its stdin and stdout
    #[command(hide = true)]
    Trainer(Trainer),
}

#[derive(Debug, Args)]
pub(crate) struct HomeArg {
    /// Folder with the backbones and data sets [default: $XDG_DATA_HOME/promptsweep or ~/.local/share/promptsweep]
    #[arg(long, env = "PROMPTSWEEP_HOME", value_name = "FOLDER")]
    pub(crate) home: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The coordinator, http://host:port or https://host:port; its token is read from SWEEP_TOKEN
    #[arg(long, env = "SWEEP_SERVER", default_value = "http://127.0.0.1:7741", value_name = "URL")]
    pub(crate) server: String,
    /// Certificates (PEM) to trust at an https address, instead of those that this machine trusts
    #[arg(long, env = "SWEEP_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// How people see this worker [default: the host's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Trials that run at the same time [default: one a device]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) slots: Option<u16>,
    /// Devices that the slots take in turn: auto, cpu, cuda:K, or several with commas
    #[arg(long, default_value = "auto", value_delimiter = ',')]
    pub(crate) device: Vec<String>,
    /// What sweeps may ask for under `resources.labels`, as in gpu=a100; may be repeated
    #[arg(long = "label", value_parser = label, value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<(String, String)>,
    /// CPU threads of each slot [default: an equal share of the cores]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    /// Leave in good order so as to be gone after this long, as in 4h or 90m [default: never; in a Slurm job, at its end]
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) max_lifetime: Option<std::time::Duration>,
    #[command(flatten)]
    pub(crate) artifacts: ArtifactsArg,
    #[command(flatten)]
    pub(crate) home: HomeArg,
}

#[derive(Debug, Args)]
pub(crate) struct ArtifactsArg {
    /// Where tuned tensors and checkpoints are kept: a folder, or a URL [default: `artifacts` in the home]
    #[arg(long, env = "PROMPTSWEEP_ARTIFACTS", value_name = "URL")]
    pub(crate) artifacts: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    #[command(flatten)]
    pub(crate) home: HomeArg,
}

#[derive(Debug, Args)]
pub(crate) struct Predict {
    /// A file that `worker train --artifact` wrote, or the URL that `sweep trial` shows
    #[arg(long, value_name = "FILE|URL")]
    pub(crate) artifact: String,
    /// Every .jpg, .jpeg and .png file in it and below is labelled
    #[arg(long, value_name = "FOLDER")]
    pub(crate) images: PathBuf,
    /// Where label maps go, of an artifact that labels pixels (head: setr_pup): 8-bit PNGs, class k as k + 1
    #[arg(long, value_name = "FOLDER")]
    pub(crate) maps: Option<PathBuf>,
    /// auto, cpu or cuda:K
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// CPU threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    #[command(flatten)]
    pub(crate) artifacts: ArtifactsArg,
    #[command(flatten)]
    pub(crate) home: HomeArg,
}

#[derive(Debug, Args)]
pub(crate) struct Train {
    /// YAML or JSON with the keys of a sweep file's `base`, and `seed`; `start`: an artifact to start from
    pub(crate) file: PathBuf,
    /// auto, cpu or cuda:K
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// CPU threads [default: all cores, as a worker with one slot]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    /// json: one object a line, an epoch each, then the final metrics
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Write the tuned tensors to this safetensors file
    #[arg(long, value_name = "FILE")]
    pub(crate) artifact: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) artifacts: ArtifactsArg,
    #[command(flatten)]
    pub(crate) home: HomeArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Import {
    /// Weights of a ViT, Swin, ResNet or ConvNeXt: safetensors, or a Google .npz
    Backbone(ImportBackbone),
    /// A folder of images and label files in the NOAH layout
    Dataset(ImportDataset),
}

#[derive(Debug, Args)]
pub(crate) struct ImportBackbone {
    pub(crate) file: PathBuf,
    /// What recipes call it
    #[arg(long)]
    pub(crate) name: String,
    /// Attention heads of a ViT [default: width / 64]
    #[arg(long)]
    pub(crate) heads: Option<u32>,
    /// How a ViT's tokens become a feature: cls, mean_norm or mean_fc_norm [default: cls]
    #[arg(long)]
    pub(crate) pool: Option<String>,
    /// Epsilon of the norms [default: 1e-6 for ViT and ConvNeXt, 1e-5 for Swin and ResNet]
    #[arg(long)]
    pub(crate) eps: Option<f64>,
    /// Side of the image that a ViT's position table belongs to, or that a Swin takes [default: from the table; 224]
    #[arg(long)]
    pub(crate) image_size: Option<u32>,
    /// How a ViT's position table is resized: bicubic or bilinear [default: bicubic]
    #[arg(long)]
    pub(crate) position_resize: Option<String>,
    /// Pixel mean and deviation that it was trained with: imagenet or inception
    #[arg(long, default_value = "imagenet")]
    pub(crate) normalisation: String,
    /// Where it came from, for people [default: the file's name]
    #[arg(long)]
    pub(crate) source: Option<String>,
    #[command(flatten)]
    pub(crate) home: HomeArg,
}

#[derive(Debug, Args)]
pub(crate) struct ImportDataset {
    pub(crate) folder: PathBuf,
    /// What recipes call it; may hold one slash
    #[arg(long)]
    pub(crate) name: String,
    /// Number of classes; known for the 19 tasks of VTAB-1k
    #[arg(long)]
    pub(crate) classes: Option<u32>,
    /// Refer to the folder where it is instead of copying it
    #[arg(long)]
    pub(crate) link: bool,
    /// Where it came from, for people [default: the folder's name]
    #[arg(long)]
    pub(crate) source: Option<String>,
    #[command(flatten)]
    pub(crate) home: HomeArg,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) home: HomeArg,
}

/// `NAME=VALUE`.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE, such as gpu=a100".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Trainer {
    #[arg(long)]
    pub(crate) home: PathBuf,
    #[arg(long)]
    pub(crate) device: String,
    #[arg(long)]
    pub(crate) threads: u32,
    #[arg(long)]
    pub(crate) artifacts: String,
}
