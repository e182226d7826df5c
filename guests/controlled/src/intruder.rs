//! A domain without the right: every operation on every other domain is refused, and it learns nothing.

use alloc::vec::Vec;

use guest_runtime::hypercall::{self, control};
use guest_runtime::{println, psci};
use portunus::abi::HypercallError;
use portunus::abi::control::{Action, Domain};

/// Numbers that domains can have.
const DOMAINS: core::ops::RangeInclusive<u16> = 1..=16;

/// What each operation on `domain` gives, by its name.
pub(crate) fn every_operation(domain: u16) -> [(&'static str, hypercall::Result<()>); 8] {
    [
        ("domain", control::domain(domain).map(drop)),
        ("vcpu", control::vcpu(domain, 0).map(drop)),
        ("server", control::server(domain, 0, 0).map(drop)),
        ("pause", control::pause(domain)),
        ("unpause", control::unpause(domain)),
        ("restart", control::restart(domain)),
        ("shutdown", control::shut_down(domain, Action::POWEROFF)),
        ("crash", control::shut_down(domain, Action::CRASH)),
    ]
}

pub(crate) fn run() -> ! {
    let own = control::domain(hypercall::DOMID_SELF).expect("it may read itself");
    let listed: Vec<u16> = control::domains().map(|domain| domain.domain).collect();
    let mut failures = 0;
    if listed != [own.domain] {
        println!("intruder: FAILED: the list has {listed:?}");
        failures += 1;
    }
    let mut refused = 0;
    for domain in DOMAINS.filter(|domain| *domain != own.domain) {
        for (operation, result) in every_operation(domain) {
            match result {
                Err(HypercallError::NotPermitted) => refused += 1,
                // There is no such domain.
                Err(HypercallError::NoDomain) => {}
                other => {
                    println!("intruder: FAILED: {operation} of domain {domain}: {other:?}");
                    failures += 1;
                }
            }
        }
    }
    let after: Domain = control::domain(own.domain).expect("it may read itself");
    if failures == 0 {
        println!(
            "intruder: refused {refused} times, as it should be; it runs as {}",
            after.name()
        );
    }
    psci::system_off()
}
