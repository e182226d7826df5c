//! A quick look at a trap and the core's way for everything: the guest can't tell which it was.

use portunus::counters::Exit;
use portunus::cpu::El1Register;
use portunus::hypervisor::{Saved, Syndrome};
use portunus::ids::VcpuId;

use crate::guest::{SF, SSE, TRANSLATION, WNR, data_abort, exception, transfer, vcpu};
use crate::sim::Sim;
use crate::world::{CLOCK, DISTRIBUTOR, EMPTY_GFN, GUEST, Options, RAM, REDISTRIBUTOR, UART};

const G0: VcpuId = vcpu(GUEST, 0);
const VECTORS: u64 = RAM + 0x10_0000;
const CODE: u64 = RAM + 0x8_0000;
const NOWHERE: u64 = 0x1000_0000;
/// EL1 with SP_EL1, BTYPE and SS set: an instruction that was performed clears both.
const EL1H: u64 = 0x3c5 | 0b11 << 10 | 1 << 21;
const EL0: u64 = 0x1000_0000;
/// An AArch32 program of the guest's.
const EL0_AARCH32: u64 = 0x10;
/// Registers on both sides of what the vectors save at first, and the zero register.
const REGISTERS: [u64; 8] = [0, 1, 18, 19, 20, 28, 30, 31];

/// Everything that the guest can see of an instruction that trapped, and what was counted.
#[derive(Debug, PartialEq)]
struct Seen {
    x: [u64; 31],
    pc: u64,
    pstate: u64,
    el1: [u64; 4],
    exits: [u64; Exit::COUNT],
}

fn trap(sim: &Sim, syndrome: Syndrome, pstate: u64, looks: &[Saved]) -> Seen {
    // What the syndrome describes, by x8: the core reads the instruction where the syndrome does not say it all.
    let esr = syndrome.esr as u32;
    let load = if esr & WNR as u32 == 0 { 1 << 22 } else { 0 };
    let instruction = 0x3900_0000 | (esr >> 22 & 3) << 30 | load | 8 << 5 | esr >> 16 & 31;
    sim.put(GUEST, CODE, &instruction);
    sim.with(G0, |context| {
        let frame = &mut context.state.frame;
        frame.x = core::array::from_fn(|index| 0x1111_2222_3333_4400 + index as u64);
        frame.write(8, syndrome.far);
        frame.pc = CODE;
        frame.pstate = pstate;
        portunus::cpu::Cpu::write_el1(&mut context.cpu.fake, El1Register::VbarEl1, VECTORS);
    });
    sim.trap_by(G0, syndrome, looks);
    sim.settle();
    assert!(sim.runs(G0), "{syndrome:x?}");
    let el1 = [
        El1Register::EsrEl1,
        El1Register::FarEl1,
        El1Register::ElrEl1,
        El1Register::SpsrEl1,
    ];
    let (x, pc, pstate) = sim.with(G0, |context| {
        let frame = &context.state.frame;
        (frame.x, frame.pc, frame.pstate)
    });
    let guest = sim.hypervisor.domain(GUEST).expect("the guest");
    Seen {
        x,
        pc,
        pstate,
        el1: el1.map(|register| sim.el1(G0, register)),
        exits: guest.vcpus[0].counters.exits(),
    }
}

/// Runs each by a quick look first, and on another machine by the core's way alone.
fn compare(cases: impl Iterator<Item = (Syndrome, u64)>) {
    let (quick, full) = (Sim::new(&Options::default()), Sim::new(&Options::default()));
    for (syndrome, pstate) in cases {
        let one = trap(&quick, syndrome, pstate, &[Saved::CALLER, Saved::ALL]);
        let other = trap(&full, syndrome, pstate, &[]);
        assert_eq!(one, other, "{syndrome:x?} at PSTATE {pstate:#x}");
    }
}

/// Loads and stores of every width at these addresses.
fn accesses(addresses: Vec<u64>, writes: bool) -> impl Iterator<Item = Syndrome> {
    let directions = if writes { vec![0, WNR] } else { vec![0] };
    addresses.into_iter().flat_map(move |address| {
        let directions = directions.clone();
        (0..4).flat_map(move |size| {
            let whole = address & !((1 << size) - 1);
            directions
                .clone()
                .into_iter()
                .map(move |write| data_abort(transfer(size, 1) | write | TRANSLATION, whole))
        })
    })
}

#[test]
fn every_register_of_the_interrupt_controller_reads_the_same() {
    let distributor = (0..0x1000).step_by(4).chain((0x6000..0x6400).step_by(8));
    let mut addresses: Vec<u64> = distributor.map(|offset| DISTRIBUTOR + offset).collect();
    addresses.push(DISTRIBUTOR + 0xffe8);
    for frame in [0, 0x1_0000, 0x2_0000] {
        addresses.extend((0..0x1000).step_by(4).map(|offset| REDISTRIBUTOR + frame + offset));
        addresses.push(REDISTRIBUTOR + frame + 0xffe8);
    }
    compare(accesses(addresses, false).map(|syndrome| (syndrome, EL1H)));
}

#[test]
fn writes_to_the_interrupt_controller_do_the_same() {
    // Enables, priorities, configuration: what a driver writes, with a read of each after it.
    let offsets = [0, 0x84, 0x104, 0x184, 0x204, 0x284, 0x304, 0x384, 0x420, 0xc08, 0x6100];
    let addresses = offsets.iter().map(|offset| DISTRIBUTOR + offset).collect();
    compare(accesses(addresses, true).map(|syndrome| (syndrome, EL1H)));
}

#[test]
fn every_register_of_the_uart_and_the_clock_does_the_same() {
    let offsets = (0..0x50).step_by(4).chain((0xfe0..0x1000).step_by(4));
    let mut addresses: Vec<u64> = offsets.map(|offset| UART + offset).collect();
    addresses.extend((0..0x20).step_by(4).map(|offset| CLOCK + offset));
    compare(accesses(addresses, true).map(|syndrome| (syndrome, EL1H)));
}

#[test]
fn an_access_that_nobody_answers_aborts_the_same_wherever_it_comes_from() {
    let addresses = vec![NOWHERE, NOWHERE + 8, NOWHERE + 0xff8, 0, 8, RAM - 8, 1 << 47];
    let cases = accesses(addresses, true).flat_map(|syndrome| [EL1H, EL1H & !1, EL0].map(|pstate| (syndrome, pstate)));
    compare(cases);
}

#[test]
fn any_register_may_be_loaded_and_stored_with_any_extension() {
    let addresses = [DISTRIBUTOR + 4, UART + 0x18, NOWHERE + 8, DISTRIBUTOR + 0x104];
    let cases = addresses.into_iter().flat_map(|address| {
        REGISTERS.into_iter().flat_map(move |register| {
            [0, SSE, WNR].into_iter().flat_map(move |extra| {
                [0, SF].map(|width| {
                    let iss = transfer(2, register) & !SF | width | extra | TRANSLATION;
                    (data_abort(iss, address), EL1H)
                })
            })
        })
    });
    compare(cases);
}

#[test]
fn accesses_that_are_not_aligned_or_of_aarch32_are_the_same() {
    let addresses = [DISTRIBUTOR + 2, DISTRIBUTOR + 5, UART + 0x1a, UART + 0x19];
    let odd = addresses.map(|address| (data_abort(transfer(2, 1) | TRANSLATION, address), EL1H));
    let aarch32 = [DISTRIBUTOR + 4, UART + 0x18, NOWHERE + 8];
    let aarch32 = aarch32.map(|address| (data_abort(transfer(2, 1) | TRANSLATION, address), EL0_AARCH32));
    compare(odd.into_iter().chain(aarch32));
}

#[test]
fn system_registers_read_and_written_are_the_same() {
    // ISS of MRS and MSR: Op0, Op2, Op1, CRn, Rt, CRm, direction.
    let iss = |(op0, op1, crn, crm, op2): (u64, u64, u64, u64, u64), rt: u64, read: u64| {
        op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1 | read
    };
    let identification = (0..16).flat_map(|crm| (0..8).map(move |op2| (3, 0, 0, crm, op2)));
    // ACTLR_EL1, CNTP_CTL_EL0, PMCR_EL0, ICC_SRE_EL1, OSLSR_EL1, an LORegion's.
    let others = [
        (3, 0, 1, 0, 1),
        (3, 3, 14, 2, 1),
        (3, 3, 9, 12, 0),
        (3, 0, 12, 12, 5),
        (2, 0, 1, 1, 4),
        (3, 0, 10, 4, 0),
    ];
    let registers: Vec<_> = identification.chain(others).collect();
    let cases = registers.into_iter().flat_map(|register| {
        [0, 1].into_iter().flat_map(move |read| {
            [1, 20, 31].into_iter().flat_map(move |rt| {
                let syndrome = exception(0x18, iss(register, rt, read));
                [EL1H, EL0].map(|pstate| (syndrome, pstate))
            })
        })
    });
    compare(cases);
}

#[test]
fn memory_that_comes_and_goes_under_an_address_is_noticed_by_a_quick_look() {
    let sim = Sim::new(&Options::default());
    let address = EMPTY_GFN << 12;
    let load = data_abort(transfer(2, 1) | TRANSLATION, address + 8);
    let looks = [Saved::CALLER, Saved::ALL];
    let again = |sim: &Sim| trap(sim, load, EL1H, &looks).pc == CODE;
    assert!(!again(&sim), "nothing is there: it aborts");
    assert!(!again(&sim), "and again, by what the first look found");
    assert_eq!(sim.map_shared_info(G0, EMPTY_GFN), 0);
    assert!(again(&sim), "the fault came before the memory: it is tried again");
}
