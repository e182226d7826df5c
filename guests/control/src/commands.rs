//! What can be typed.

use alloc::string::ToString;

use guest_runtime::gic::Gic;
use guest_runtime::hypercall::{self, control};
use guest_runtime::{println, psci};
use portunus::abi::control::{Action, Domain};

use crate::failure::Failure;
use crate::kills::Plan;
use crate::show;

const HELP: &[(&str, &str)] = &[
    ("list", "all domains that this one may control, and itself"),
    ("info NAME", "a domain: its state, memory, event channels"),
    (
        "vcpus NAME",
        "its vCPUs: what they do or wait for, why they left their guest",
    ),
    ("servers NAME", "the servers of its devices, and how fast they answer"),
    ("pause NAME", "hold it: it does not run until unpause"),
    ("unpause NAME", "let it go on"),
    (
        "restart NAME",
        "restart it in place, or start it again after it has stopped",
    ),
    ("shutdown NAME [crash]", "stop it, as if it had powered off, or crashed"),
    (
        "kill NAME [TIMES [MIN-MAX [SEED [crash]]]]",
        "restart it, or make it crash, at random moments, MIN to MAX ms apart; Ctrl-C ends it",
    ),
    ("quit", "turn this domain off"),
    ("help", "this list"),
];

/// The domain of that name or number.
pub(crate) fn find(name: &str) -> Result<Domain, Failure> {
    let number = name.parse::<u16>().ok();
    control::domains()
        .find(|domain| domain.name() == name || Some(domain.domain) == number)
        .ok_or_else(|| Failure::NoDomain(name.to_string()))
}

/// Runs one line.
pub(crate) fn run(line: &str, gic: &Gic) -> Result<(), Failure> {
    let mut words = line.split_ascii_whitespace();
    let Some(command) = words.next() else { return Ok(()) };
    let usage = |usage| move || Failure::Usage(usage);
    // The one domain that most commands are about.
    let one = |usage: &'static str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        match (words.next(), words.next()) {
            (Some(name), None) => find(name),
            _ => Err(Failure::Usage(usage)),
        }
    };
    match command {
        "list" => show::list(),
        "info" => show::info(&one("info NAME")?),
        "vcpus" => show::vcpus(&one("vcpus NAME")?)?,
        "servers" => show::servers(&one("servers NAME")?)?,
        "pause" => act("paused", &one("pause NAME")?, control::pause)?,
        "unpause" => act("goes on", &one("unpause NAME")?, control::unpause)?,
        "restart" => act("restarts", &one("restart NAME")?, control::restart)?,
        "shutdown" => {
            const USAGE: &str = "shutdown NAME [crash]";
            let name = words.next().ok_or_else(usage(USAGE))?;
            let reason = match (words.next(), words.next()) {
                (None, None) => Action::POWEROFF,
                (Some("crash"), None) => Action::CRASH,
                _ => return Err(Failure::Usage(USAGE)),
            };
            act("stops", &find(name)?, |id| control::shut_down(id, reason))?;
        }
        "kill" => Plan::from_words(words)?.run(gic)?,
        "help" => {
            for (command, what) in HELP {
                println!("  {command:<36} {what}");
            }
            println!("  A NAME is a domain's name or its number.");
        }
        "quit" => psci::system_off(),
        other => return Err(Failure::Unknown(other.to_string())),
    }
    Ok(())
}

fn act(done: &str, domain: &Domain, act: impl FnOnce(u16) -> hypercall::Result<()>) -> Result<(), Failure> {
    let name = domain.name();
    act(domain.domain).map_err(|error| Failure::Refused(name.to_string(), error))?;
    println!("control: {name} {done}");
    Ok(())
}
