//! A Postgres cluster of the tests' own: made in a temporary folder, reached by a socket in it, gone with the process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Cluster {
    folder: PathBuf,
    /// Stops the cluster when this process ends in whatever way: its standard input is closed then.
    _watcher: Child,
}

/// The URL of an empty database.
pub(crate) async fn database() -> String {
    let cluster = tokio::task::spawn_blocking(|| CLUSTER.get_or_init(Cluster::new)).await.unwrap();
    cluster.database().await
}

impl Cluster {
    /// The URL of an empty database in it.
    pub(crate) async fn database(&self) -> String {
        let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut admin = PgConnection::connect(&self.url("postgres")).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
        admin.close().await.unwrap();
        self.url(&name)
    }

    /// Makes one and starts it.
    pub(crate) fn new() -> Self {
        let bin = binaries();
        // A socket's path must be short: not the folder of the build.
        let folder = tempfile::Builder::new().prefix("promptsweep-pg-").tempdir_in("/tmp").unwrap().keep();
        let user = unprivileged();
        if let Some(user) = user {
            run(Command::new("chown").arg(user).arg(&folder));
        }
        let watcher = watch(user, &bin, &folder);
        run(command(user, &bin.join("initdb"))
            .args([
                "--username=promptsweep",
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(folder.join("data")));
        let cluster = Self { folder, _watcher: watcher };
        cluster.start();
        cluster
    }

    /// Starts it, or starts it again; ready when this returns.
    pub(crate) fn start(&self) {
        let folder = self.folder.display();
        let options = format!("-k {folder} -c listen_addresses= -c fsync=off -c max_connections=200");
        run(self.control().arg("-l").arg(self.folder.join("log")).args(["-o", &options, "start"]));
    }

    /// Every process of it is killed, and whatever was in memory is lost.
    pub(crate) fn crash(&self) {
        run(self.control().args(["-m", "immediate", "stop"]));
    }

    fn control(&self) -> Command {
        let mut control = command(unprivileged(), &binaries().join("pg_ctl"));
        control.args(["-w", "-D"]).arg(self.folder.join("data"));
        control
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://promptsweep@localhost/{database}?host={}", self.folder.display())
    }
}

fn watch(user: Option<&str>, bin: &Path, folder: &Path) -> Child {
    let script = r#"cat > /dev/null; "$1" -D "$2/data" -m immediate stop > /dev/null 2>&1; rm -rf "$2""#;
    command(user, Path::new("sh"))
        .args(["-c", script, "sh"])
        .arg(bin.join("pg_ctl"))
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Postgres refuses to run as root: then somebody else runs it.
fn unprivileged() -> Option<&'static str> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    if id(&["-u"]).as_deref() != Some("0") {
        return None;
    }
    Some(if id(&["-u", "postgres"]).is_some() { "postgres" } else { "nobody" })
}

fn command(user: Option<&str>, program: &Path) -> Command {
    let mut command = match user {
        Some(user) => {
            let mut command = Command::new("runuser");
            command.args(["-u", user, "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.current_dir("/tmp");
    command
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let status = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

fn binaries() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    std::env::split_paths(&path)
        .chain(installed.map(|version| version.path().join("bin")))
        .find(|folder| folder.join("initdb").exists() && folder.join("pg_ctl").exists())
        .expect("these tests need Postgres 13 or newer: apt-get install postgresql, or put initdb into PATH")
}
