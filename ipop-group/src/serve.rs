//! `ipop-group serve`: what is set up, and what goes on beside the requests.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::app::{App, Heard, Site};
use crate::cli::ServeArgs;
use crate::http::limits::Limits;
use crate::http::server::Server;
use crate::http::waiting::Waiting;
use crate::http::{self, tls};
use crate::password::Passwords;
use crate::secrets::{self, MasterKey};
use crate::store::{self, Store};

/// Held by the one server of a folder.
const LOCK_NAME: &str = "lock";
const WORKERS: usize = 2;
/// Threads that read the database and compute hashes.
const BLOCKING_THREADS: usize = 4;
/// What nodes report is written down this often.
const FLUSH: Duration = Duration::from_secs(3);
/// The files of the server's certificate are looked at this often.
const LOOK_AT_FILES: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log)
        .with_context(|| format!("--log {}: a level is error, warn, info or debug", args.log))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    make_folder(&args.data)?;
    alone(&args.data, || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()?
            .block_on(serve(args))
    })
}

pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Does something while no other process serves this folder.
pub(crate) fn alone(folder: &Path, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let file = folder.join(LOCK_NAME);
    let lock = fs::File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        bail!("another ipop-group uses {}: stop it first", folder.display());
    };
    run()
}

async fn serve(args: &ServeArgs) -> Result<()> {
    is_safe(args)?;
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen at {}", args.listen))?;
    let site = site(args, listener.local_addr()?)?;
    let key_file = args.master_key.clone().unwrap_or_else(|| args.data.join(secrets::FILE_NAME));
    // A database without its key is of no use: then a new key would only hide what is wrong.
    let may_create = args.master_key.is_none() && !has_groups(&args.data)?;
    let master = Arc::new(MasterKey::load(&key_file, may_create)?);
    let files = match (&args.tls_certificate, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(tls::Files::load(certificate, key)?),
        _ => None,
    };
    let tls = files
        .as_ref()
        .map(|files| files.config())
        .transpose()?
        .map(|config| TlsAcceptor::from(Arc::new(config)));
    let proxies = site.proxies.clone();
    let app = Arc::new(App {
        store: Store::open(&args.data)?,
        master,
        passwords: Passwords::default(),
        limits: Limits::default(),
        site,
        heard: Heard::default(),
        waiting: Waiting::default(),
    });
    tracing::info!("serving {} at {}", app.site.origin, listener.local_addr()?);
    let (end, ending) = watch::channel(false);
    let server = Server { router: http::router(Arc::clone(&app)), tls, proxies };
    let serving = tokio::spawn(server.serve(listener, ending));
    upkeep(&app, files.as_deref()).await?;
    tracing::info!("stopping");
    end.send_replace(true);
    serving.await?;
    app.flush_reports().await;
    Ok(())
}

/// Until a signal ends the server.
async fn upkeep(app: &App, files: Option<&tls::Files>) -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let (mut flush, mut look) = (tokio::time::interval(FLUSH), tokio::time::interval(LOOK_AT_FILES));
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => reload(files),
            _ = look.tick() => reload(files),
            _ = flush.tick() => app.flush_reports().await,
        }
    }
}

fn reload(files: Option<&tls::Files>) {
    match files.map(tls::Files::reload) {
        Some(Ok(true)) => tracing::info!("read the certificate for HTTPS again"),
        Some(Err(error)) => tracing::error!("the old certificate for HTTPS stays: {error:#}"),
        Some(Ok(false)) | None => {}
    }
}

fn has_groups(folder: &Path) -> Result<bool> {
    let connection = store::open(folder)?;
    Ok(connection.query_row("SELECT EXISTS (SELECT 1 FROM groups)", [], |row| row.get(0))?)
}

/// Without HTTPS of its own the server is for this host alone, or for a proxy that speaks HTTPS for it.
fn is_safe(args: &ServeArgs) -> Result<()> {
    ensure!(
        args.tls_certificate.is_some() || args.listen.ip().is_loopback() || !args.proxies.is_empty(),
        "{} is no address of this host alone: give --tls-certificate and --tls-key, or the --proxy that speaks HTTPS",
        args.listen
    );
    Ok(())
}

/// How the server is known: as it is told, or by where it listens.
fn site(args: &ServeArgs, listening: SocketAddr) -> Result<Site> {
    let scheme = if args.tls_certificate.is_some() { "https" } else { "http" };
    let usual = format!("{scheme}://{listening}");
    let origin = args.public_url.clone().unwrap_or(usual).trim_end_matches('/').to_ascii_lowercase();
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://")).unwrap_or_default();
    let is_host =
        !host.is_empty() && host.bytes().all(|sign| sign.is_ascii_alphanumeric() || b".-:[]".contains(&sign));
    ensure!(is_host, "--public-url {origin}: it is https:// and a host, as https://group.example.org");
    let proxies = args.proxies.iter().map(std::net::IpAddr::to_canonical).collect();
    Ok(Site { origin, is_open: args.open_registration, proxies })
}
