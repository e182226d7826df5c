//! What a control domain reads of others and does to them.

use portunus::abi::control::{
    self, Action, DOMAIN, Domain, NEXT_DOMAIN, PAUSE, RESTART, SERVER, SHUTDOWN, Server, UNPAUSE, VCPU, Vcpu,
};
use portunus::abi::hypercall::CONTROL;

use super::{Result, call, pointer};

fn ask<T>(operation: u64, mut structure: T) -> Result<T> {
    // SAFETY: the structure is here, of the operation's type (private function, see the callers).
    unsafe { call(CONTROL, [operation, pointer(&mut structure), 0, 0, 0]) }?;
    Ok(structure)
}

/// The interface's version, if it is the one that this was built for.
pub fn version() -> Result<u32> {
    let version = control::Version {
        version: control::INTERFACE_VERSION,
        pad: 0,
    };
    Ok(ask(control::VERSION, version)?.version)
}
/// A domain.
pub fn domain(domain: u16) -> Result<Domain> {
    ask(DOMAIN, Domain::ask(domain))
}
/// The first domain from number `from` on that the caller may read.
pub fn next_domain(from: u16) -> Result<Domain> {
    ask(NEXT_DOMAIN, Domain::ask(from))
}
/// Every domain that the caller may read.
pub fn domains() -> impl Iterator<Item = Domain> {
    let mut next = 0;
    core::iter::from_fn(move || {
        let domain = next_domain(next).ok()?;
        next = domain.domain.saturating_add(1);
        Some(domain)
    })
}
/// A vCPU of a domain.
pub fn vcpu(domain: u16, vcpu: u16) -> Result<Vcpu> {
    ask(VCPU, Vcpu::ask(domain, vcpu))
}
/// A server of a domain's devices, with its ranges from number `first_range` on.
pub fn server(domain: u16, server: u16, first_range: u32) -> Result<Server> {
    ask(SERVER, Server::ask(domain, server, first_range))
}
/// Holds a domain.
pub fn pause(domain: u16) -> Result<()> {
    ask(PAUSE, Action::on(domain)).map(drop)
}
/// Lets it go on.
pub fn unpause(domain: u16) -> Result<()> {
    ask(UNPAUSE, Action::on(domain)).map(drop)
}
/// Restarts a domain in place.
pub fn restart(domain: u16) -> Result<()> {
    ask(RESTART, Action::on(domain)).map(drop)
}
/// Stops a domain for a reason ([`Action::POWEROFF`] or [`Action::CRASH`]).
pub fn shut_down(domain: u16, reason: u32) -> Result<()> {
    let action = Action {
        reason,
        ..Action::on(domain)
    };
    ask(SHUTDOWN, action).map(drop)
}
