//! The program: reads its settings, runs the server, turns a failure into an exit code.

use std::io::IsTerminal;
use std::pin::pin;
use std::process::ExitCode;

use clap::Parser;
use evermq::config::{Command, CommandLine, Config, PasswdArgs, ServeArgs};
use evermq::server::{self, Server};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let filter = EnvFilter::try_from_env("EVERMQ_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A terminal that is gone must not end a broker that outlives it.
        .log_internal_errors(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start threads: {error}")),
    };
    let result = match command_line.command {
        None => runtime.block_on(serve(&command_line.serve)),
        Some(Command::Serve(args)) => runtime.block_on(serve(&args)),
        Some(Command::Passwd(args)) => runtime.block_on(passwd(&args)),
        Some(Command::Bench(args)) => evermq::bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => fail(&text),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the reason of the exit is for the person who started the program"
)]
fn fail(text: &str) -> ExitCode {
    eprintln!("evermq: {text}");
    ExitCode::FAILURE
}

#[expect(
    clippy::print_stdout,
    reason = "the greeting tells scripts and people where the broker listens"
)]
async fn serve(args: &ServeArgs) -> Result<(), String> {
    let config = Config::load(args, |name| std::env::var(name).ok()).map_err(|error| error.to_string())?;
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| format!("cannot listen for SIGTERM: {error}"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| format!("cannot listen for SIGHUP: {error}"))?;
    let server = Server::start(&config).await.map_err(|error| error.to_string())?;
    println!("{}", server.greeting(&config));
    {
        let mut failed = pin!(server.failed());
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = hangup.recv() => server.reload().await,
                result = tokio::signal::ctrl_c() => {
                    result.map_err(|error| format!("cannot listen for Ctrl-C: {error}"))?;
                    break;
                }
                error = &mut failed => return Err(error.to_string()),
            }
        }
    }
    tracing::info!("stopping");
    server.stop().await.map_err(|error| error.to_string())
}

async fn passwd(args: &PasswdArgs) -> Result<(), String> {
    let mut password = String::new();
    std::io::stdin()
        .read_line(&mut password)
        .map_err(|error| format!("cannot read the password: {error}"))?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() || password.len() > 256 {
        return Err("the password must have 1 to 256 bytes".into());
    }
    server::set_password(args, password)
        .await
        .map_err(|error| error.to_string())
}
