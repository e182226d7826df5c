//! The guest beside it, which must not be delayed.

use guest_runtime::events::Events;
use guest_runtime::{hypercall, println, psci, timer};

/// The static event channel between the two guests; the manifest says so for both.
const PORT: u32 = 1;

/// Tells the neighbour that all is over.
pub(crate) fn tell() {
    if let Err(error) = hypercall::send(PORT) {
        println!("backend-dies: FAILED: telling the neighbour: {error}");
    }
}

/// Looks at the counter until it is told that all is over. It may not run for `longest_pause` microseconds at a time.
pub(crate) fn run(longest_pause: u64) -> ! {
    let events = match Events::init() {
        Ok(events) => events,
        Err(error) => {
            println!("neighbour: FAILED: {error}");
            psci::system_off()
        }
    };
    // The port starts with an event.
    events.take(drop);
    let start = timer::now();
    let (mut before, mut longest, mut when) = (start, 0, start);
    while !events.is_pending() {
        let now = timer::now();
        if now - before > longest {
            (longest, when) = (now - before, before);
        }
        before = now;
    }
    let microseconds = |ticks: u64| (u128::from(ticks) * 1_000_000 / u128::from(timer::frequency())) as u64;
    let verdict = if microseconds(longest) <= longest_pause {
        "never delayed"
    } else {
        "FAILED: delayed"
    };
    println!(
        "neighbour: {verdict}: in {} ms it paused for {} us at the longest, after {} ms",
        microseconds(before - start) / 1000,
        microseconds(longest),
        microseconds(when - start) / 1000
    );
    psci::system_off()
}
