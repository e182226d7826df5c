//! How long requests take while another guest of the same backend rings without end.

use guest_runtime::events::Events;
use guest_runtime::{hypercall, println, timer};

use super::registers::Vcpu;
use super::{number, pause};
use crate::PEER_PORT;

/// How many times longer requests may take: the ringer, the backend's work for it, and on one pCPU slices of all three.
const SLOWER: u64 = 20;
/// Microseconds that are not looked at: a request may have to wait for a slice or two.
const GRACE: u64 = 20_000;
/// Microseconds before another vCPU is taken to have begun, or ended.
const BEGINNING: u64 = 50_000;

fn requests(vcpu: &mut Vcpu) -> u64 {
    let begin = timer::now();
    for _ in 0..number("rounds") {
        vcpu.post(false);
        vcpu.ring();
        vcpu.request();
    }
    timer::now() - begin
}

/// Times requests without and with the ringer, and lets it end.
pub(super) fn measure(vcpu: &mut Vcpu) {
    let _events = Events::init().expect("the manifest gives this domain event channels");
    let settle = || {
        let begin = timer::now();
        while timer::now() - begin < timer::ticks(BEGINNING) {
            pause();
        }
    };
    // The other vCPU ends.
    settle();
    let alone = requests(vcpu);
    hypercall::send(PEER_PORT).expect("the ringer is there");
    settle();
    let beside = requests(vcpu);
    hypercall::send(PEER_PORT).expect("the ringer is there");
    let microseconds = |ticks| ticks * 1_000 / timer::ticks(1_000);
    println!(
        "writer: {} requests in {} us, beside a guest that rings without end in {} us",
        number("rounds"),
        microseconds(alone),
        microseconds(beside)
    );
    if beside > alone * SLOWER + timer::ticks(GRACE) {
        println!("writer: FAILED: that is too long");
    }
}
