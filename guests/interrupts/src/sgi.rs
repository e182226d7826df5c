//! Software-generated interrupts.

use core::sync::atomic::{AtomicU32, Ordering};

use guest_runtime::exceptions;
use guest_runtime::gic::{Acknowledged, Gic};

use crate::recorder::{count, gic, masked, own, set_hook, settle, total, wait_until};
use crate::registers::{self, SgiTargets, send};
use crate::worker::{self, OTHER};
use crate::{Bench, Case, Needs, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("each SGI to oneself comes once", Needs::Nothing, to_oneself),
    (
        "each SGI to the other vCPU comes there once",
        Needs::Nothing,
        to_the_other,
    ),
    ("an SGI to all others goes to all others", Needs::Nothing, to_others),
    (
        "an SGI to a list goes to everybody in the list",
        Needs::Nothing,
        to_a_list,
    ),
    ("an SGI to nobody goes nowhere", Needs::Nothing, to_nobody),
    ("an SGI wakes a vCPU that sleeps", Needs::Nothing, wakes),
    (
        "SGIs that are sent while one is pending are one",
        Needs::Nothing,
        coalesce,
    ),
    (
        "a disabled SGI stays pending until it is enabled",
        Needs::GicV3,
        disabled,
    ),
    (
        "an SGI is made pending and taken back by registers",
        Needs::GicV3,
        by_registers,
    ),
    (
        "SGIs of two senders are two, and tell their sender",
        Needs::GicV2,
        senders,
    ),
    (
        "an SGI of any sender is made pending and taken back by registers",
        Needs::GicV2,
        by_sender_registers,
    ),
    (
        "10,000 SGIs each way, one answering the other, all come",
        Needs::Nothing,
        ping_pong,
    ),
    (
        "of 10,000 SGIs without waiting the last one comes, both ways at once",
        Needs::Nothing,
        flood,
    ),
];

fn to_oneself(bench: &Bench) -> Outcome {
    for sgi in 0..16 {
        bench.gic.send_to_self(sgi);
        ensure!(wait_until(|| count(0, sgi) > 0), "SGI {sgi} does not come");
    }
    settle();
    ensure!(
        total(0) == 16 && total(OTHER) == 0,
        "{} and {} came",
        total(0),
        total(OTHER)
    );
    Ok(())
}

fn to_the_other(bench: &Bench) -> Outcome {
    for sgi in 0..16 {
        bench.gic.send_to(sgi, OTHER as u64);
        ensure!(wait_until(|| count(OTHER, sgi) > 0), "SGI {sgi} does not come");
    }
    settle();
    ensure!(
        total(0) == 0 && total(OTHER) == 16,
        "{} and {} came",
        total(0),
        total(OTHER)
    );
    Ok(())
}

fn arrives_at(sgi: u32, expected: [u32; 2]) -> Outcome {
    let arrived = wait_until(|| count(0, sgi) >= expected[0] && count(OTHER, sgi) >= expected[1]);
    settle();
    let found = [count(0, sgi), count(OTHER, sgi)];
    ensure!(
        arrived && found == expected,
        "SGI {sgi} came {found:?} times to the vCPUs"
    );
    Ok(())
}

fn to_others(bench: &Bench) -> Outcome {
    send(bench.gic, 3, SgiTargets::Others);
    arrives_at(3, [0, 1])?;
    ensure!(worker::run(|| send(gic(), 4, SgiTargets::Others)), "vCPU 1 hangs");
    arrives_at(4, [1, 0])
}

fn to_a_list(bench: &Bench) -> Outcome {
    send(bench.gic, 5, SgiTargets::List(3));
    arrives_at(5, [1, 1])?;
    send(bench.gic, 6, SgiTargets::List(1));
    arrives_at(6, [1, 0])?;
    send(bench.gic, 7, SgiTargets::List(2));
    arrives_at(7, [0, 1])
}

fn to_nobody(bench: &Bench) -> Outcome {
    send(bench.gic, 8, SgiTargets::List(0));
    send(bench.gic, 8, SgiTargets::List(0x80));
    if let Gic::V3(_) = bench.gic {
        // Affinities that no vCPU has.
        send(bench.gic, 8, SgiTargets::List(1 | 1 << 16));
        send(bench.gic, 8, SgiTargets::List(1 | 1 << 32));
        send(bench.gic, 8, SgiTargets::List(1 | 1 << 48));
    }
    arrives_at(8, [0, 0])
}

fn wakes(bench: &Bench) -> Outcome {
    worker::begin(worker::sleep);
    settle();
    bench.gic.send_to(9, OTHER as u64);
    ensure!(worker::finish(), "vCPU 1 sleeps on");
    arrives_at(9, [0, 1])
}

fn coalesce(bench: &Bench) -> Outcome {
    masked(|| (0..5).for_each(|_| bench.gic.send_to_self(2)));
    arrives_at(2, [1, 0])
}

fn disabled(bench: &Bench) -> Outcome {
    bench.gic.disable(10);
    bench.gic.send_to_self(10);
    settle();
    let (before, pending) = (count(0, 10), registers::get(bench.gic, registers::ISPENDR, 10));
    registers::set(bench.gic, registers::ISENABLER, 10);
    ensure!(before == 0 && pending, "it came {before} times, pending: {pending}");
    arrives_at(10, [1, 0])
}

fn by_registers(bench: &Bench) -> Outcome {
    bench.gic.set_pending(11);
    arrives_at(11, [1, 0])?;
    masked(|| {
        bench.gic.set_pending(12);
        bench.gic.clear_pending(12);
    });
    arrives_at(12, [0, 0])
}

static SENDERS: AtomicU32 = AtomicU32::new(0);

fn senders(bench: &Bench) -> Outcome {
    SENDERS.store(0, Ordering::SeqCst);
    set_hook(|_, acknowledged| {
        SENDERS.fetch_or(1 << acknowledged.sender(), Ordering::SeqCst);
    });
    let other = masked(|| {
        bench.gic.send_to_self(3);
        worker::run(|| gic().send_to(3, 0))
    });
    ensure!(other, "vCPU 1 hangs");
    arrives_at(3, [2, 0])?;
    let senders = SENDERS.load(Ordering::SeqCst);
    ensure!(senders == 3, "the senders were {senders:#b}");
    Ok(())
}

fn by_sender_registers(bench: &Bench) -> Outcome {
    SENDERS.store(0, Ordering::SeqCst);
    set_hook(|_, acknowledged| {
        SENDERS.fetch_or(1 << acknowledged.sender(), Ordering::SeqCst);
    });
    let distributor = bench.gic.distributor();
    let read = masked(|| {
        distributor.write_u8(registers::SPENDSGIR + 4, 0b11);
        distributor.write_u8(registers::CPENDSGIR + 4, 0b01);
        distributor.read(registers::SPENDSGIR + 4) as u8
    });
    arrives_at(4, [1, 0])?;
    let senders = SENDERS.load(Ordering::SeqCst);
    ensure!(
        read == 0b10 && senders == 0b10,
        "registers {read:#b}, senders {senders:#b}"
    );
    Ok(())
}

const ROUNDS: u32 = 10_000;

fn ping_pong(bench: &Bench) -> Outcome {
    // 1 goes to vCPU 1, 0 comes back.
    fn answer(gic: &Gic, acknowledged: Acknowledged) {
        match (own(), acknowledged.intid) {
            (OTHER, 1) => gic.send_to(0, 0),
            (0, 0) if count(0, 0) < ROUNDS => gic.send_to(1, OTHER as u64),
            _ => {}
        }
    }
    set_hook(answer);
    bench.gic.send_to(1, OTHER as u64);
    // Progress is asked for, not speed.
    let mut seen = 0;
    while count(0, 0) < ROUNDS {
        ensure!(
            wait_until(|| count(0, 0) > seen),
            "after {seen} of {ROUNDS} nothing comes"
        );
        seen = count(0, 0);
    }
    settle();
    let found = [count(0, 0), count(OTHER, 1)];
    ensure!(found == [ROUNDS; 2], "{found:?} came");
    Ok(())
}

static SENT: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static SEEN: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];

fn flood_from(sender: usize) {
    for number in 1..=ROUNDS {
        SENT[sender].store(number, Ordering::SeqCst);
        gic().send_to(5, (1 - sender) as u64);
    }
}

fn flood(_: &Bench) -> Outcome {
    for sender in 0..2 {
        SENT[sender].store(0, Ordering::SeqCst);
        SEEN[sender].store(0, Ordering::SeqCst);
    }
    set_hook(|_, _| {
        let sender = 1 - own();
        SEEN[sender].store(SENT[sender].load(Ordering::SeqCst), Ordering::SeqCst);
    });
    worker::begin(|| flood_from(OTHER));
    flood_from(0);
    ensure!(worker::finish(), "vCPU 1 hangs");
    exceptions::enable_interrupts();
    for (sender, seen) in SEEN.iter().enumerate() {
        let seen = || seen.load(Ordering::SeqCst);
        ensure!(
            wait_until(|| seen() == ROUNDS),
            "of vCPU {sender} number {} was seen last",
            seen()
        );
    }
    let found = [count(0, 5), count(OTHER, 5)];
    ensure!(found.iter().all(|count| (1..=ROUNDS).contains(count)), "{found:?} came");
    Ok(())
}
