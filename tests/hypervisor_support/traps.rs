//! What becomes of an instruction that traps: a register, an exception, or another try.

use portunus::cpu::{Access, El1Register, TranslationFault};
use portunus::hypervisor::Syndrome;
use portunus::ids::{Ipa, VcpuId};
use portunus::trap::registers::GuestMode;

use crate::backend::Server;
use crate::guest::{
    CM, PERMISSION, S1PTW, SF, SSE, TRANSLATION, WNR, data_abort, exception, instruction_abort, transfer, vcpu,
};
use crate::sim::Sim;
use crate::world::{BACKEND, CLOCK, DISK, DISTRIBUTOR, EMPTY_GFN, GUEST, Options, RAM, RAM_SIZE, UART};

const G0: VcpuId = vcpu(GUEST, 0);
const B0: VcpuId = vcpu(BACKEND, 0);
const VECTORS: u64 = RAM + 0x10_0000;
/// Where the guest's code is.
const CODE: u64 = RAM + 0x8_0000;
const NOWHERE: u64 = 0x1000_0010;
const SHARED_GFN: u64 = EMPTY_GFN + 0x40;
const NOP: u32 = 0xd503_201f;
const EL1H: u64 = 0x3c5;

/// How an instruction ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// PC moved on; x1 is this.
    Done(u64),
    /// As `Done`, and x2 is this.
    Pair(u64, u64),
    /// The guest takes this exception: ESR_EL1, and FAR_EL1 where it says something.
    Taken(u64, Option<u64>),
    /// Nothing has changed: the guest runs the instruction again.
    Again,
    /// A server works on it.
    Waits,
}

use End::{Again, Done, Pair, Taken, Waits};

/// An external abort at EL1, of a data access.
const fn external(wnr: u64) -> u64 {
    0x25 << 26 | 1 << 25 | 0x10 | wnr
}
const FETCH: u64 = 0x21 << 26 | 1 << 25 | 0x10;
const UNDEFINED: u64 = 1 << 25;

struct Case {
    name: &'static str,
    syndrome: Syndrome,
    instruction: u32,
    end: End,
}

fn case(name: &'static str, syndrome: Syndrome, end: End) -> Case {
    Case {
        name,
        syndrome,
        instruction: NOP,
        end,
    }
}

/// A load or store whose syndrome says nothing of its registers.
fn decoded(name: &'static str, instruction: u32, iss: u64, address: u64, end: End) -> Case {
    Case {
        name,
        syndrome: data_abort(iss, address),
        instruction,
        end,
    }
}

/// The guest is about to execute `case`'s instruction.
fn prepare(sim: &Sim, case: &Case) {
    sim.put(GUEST, CODE, &case.instruction);
    sim.with(G0, |context| {
        context.state.frame.pc = CODE;
        context.state.frame.pstate = EL1H;
        context.state.frame.write(1, 0x1111_2222_3333_4444);
        context.state.frame.write(2, 0x5555_6666_7777_8888);
        // The base of instructions that are decoded.
        context.state.frame.write(3, case.syndrome.far);
        let cpu = &mut context.cpu.fake;
        for register in [El1Register::EsrEl1, El1Register::FarEl1, El1Register::ElrEl1] {
            portunus::cpu::Cpu::write_el1(cpu, register, 0);
        }
        portunus::cpu::Cpu::write_el1(cpu, El1Register::VbarEl1, VECTORS);
    });
}

fn end(sim: &Sim, case: &Case) -> End {
    if !sim.runs(G0) {
        assert_eq!(sim.pc(G0), CODE, "{}", case.name);
        return Waits;
    }
    match sim.pc(G0) {
        CODE => Again,
        pc if pc == CODE + 4 => match case.end {
            Pair(..) => Pair(sim.x(G0, 1), sim.x(G0, 2)),
            _ => Done(sim.x(G0, 1)),
        },
        pc => {
            assert_eq!(pc, VECTORS + 0x200, "{}", case.name);
            assert_eq!(sim.el1(G0, El1Register::ElrEl1), CODE, "{}", case.name);
            assert_eq!(sim.el1(G0, El1Register::SpsrEl1), EL1H, "{}", case.name);
            assert_eq!(sim.x(G0, 1), 0x1111_2222_3333_4444, "{}", case.name);
            let far = sim.el1(G0, El1Register::FarEl1);
            Taken(sim.el1(G0, El1Register::EsrEl1), (far != 0).then_some(far))
        }
    }
}

fn run(sim: &Sim, cases: &[Case]) {
    for case in cases {
        prepare(sim, case);
        sim.trap(G0, case.syndrome);
        assert_eq!(end(sim, case), case.end, "{}", case.name);
    }
}

/// What GICD_TYPER reads.
fn typer(sim: &Sim) -> u64 {
    sim.load_from(G0, DISTRIBUTOR + 4, 2, 1).expect("GICD_TYPER")
}

fn with_hpfar(syndrome: Syndrome, hpfar: u64) -> Syndrome {
    Syndrome { hpfar, ..syndrome }
}

#[test]
fn an_access_that_the_syndrome_describes_is_performed_or_aborts() {
    let sim = Sim::new(&Options::default());
    let typer = typer(&sim);
    let x1 = 0x1111_2222_3333_4444;
    let ram = RAM + 0x1008;
    run(
        &sim,
        &[
            case(
                "a word is zero-extended",
                data_abort(transfer(2, 1) | TRANSLATION, DISTRIBUTOR + 4),
                Done(typer),
            ),
            case(
                "a load into the zero register changes no register",
                data_abort(transfer(2, 31) | TRANSLATION, DISTRIBUTOR + 4),
                Done(x1),
            ),
            case(
                "a byte is sign-extended as the syndrome asks",
                data_abort(transfer(0, 1) | SSE | TRANSLATION, UART + 0xff0),
                Done(0x0d),
            ),
            case(
                "a signed byte into W leaves the upper half zero",
                data_abort(transfer(0, 1) & !SF | SSE | TRANSLATION, UART + 0xffc),
                Done(0xffff_ffb1),
            ),
            case(
                "a signed byte into X is signed up to the top",
                data_abort(transfer(0, 1) | SSE | TRANSLATION, UART + 0xffc),
                Done(0xffff_ffff_ffff_ffb1),
            ),
            case(
                "a load from nowhere aborts",
                data_abort(transfer(2, 1) | TRANSLATION, NOWHERE),
                Taken(external(0), Some(NOWHERE)),
            ),
            case(
                "a store to nowhere aborts as a store",
                data_abort(transfer(2, 1) | WNR | TRANSLATION, NOWHERE + 8),
                Taken(external(WNR), Some(NOWHERE + 8)),
            ),
            case(
                "an access that begins in a device's window and ends behind it aborts",
                data_abort(transfer(3, 1) | TRANSLATION, DISK + 0x1fc),
                Taken(external(0), Some(DISK + 0x1fc)),
            ),
            case(
                "an address that only the virtual half names is translated, whatever HPFAR says",
                with_hpfar(data_abort(transfer(2, 1) | PERMISSION, ram), u64::MAX),
                Again,
            ),
            case(
                "a permission fault on memory that is mapped by now is tried again",
                with_hpfar(data_abort(transfer(2, 1) | WNR | PERMISSION, ram), NOWHERE >> 8),
                Again,
            ),
            case(
                "a translation fault on memory is tried again",
                data_abort(transfer(2, 1) | TRANSLATION, ram),
                Again,
            ),
            case(
                "a guest's walk of tables that lie nowhere aborts at the address that walked",
                with_hpfar(data_abort(S1PTW | TRANSLATION, ram), NOWHERE >> 8),
                Taken(external(0), Some(ram)),
            ),
            case(
                "a walk of tables in a device's window aborts",
                with_hpfar(data_abort(S1PTW | TRANSLATION, ram), DISK >> 8),
                Taken(external(0), Some(ram)),
            ),
            case(
                "a walk of tables that are mapped by now is tried again",
                with_hpfar(data_abort(S1PTW | TRANSLATION, NOWHERE), ram >> 8),
                Again,
            ),
            case(
                "cache maintenance of nothing is stepped over",
                data_abort(CM | WNR | TRANSLATION, NOWHERE),
                Done(x1),
            ),
            case(
                "cache maintenance of a device is stepped over",
                data_abort(CM | WNR | TRANSLATION, DISK),
                Done(x1),
            ),
            case(
                "cache maintenance of memory is tried again",
                data_abort(CM | WNR | TRANSLATION, ram),
                Again,
            ),
            case(
                "an external abort of the machine's own reaches the guest",
                data_abort(transfer(2, 1) | 0x10, DISK),
                Taken(external(0), Some(DISK)),
            ),
            case(
                "an external abort without an address has none for the guest",
                data_abort(1 << 10 | 0x10, DISK),
                Taken(external(1 << 10), None),
            ),
            case(
                "an address beyond the map aborts",
                data_abort(transfer(2, 1) | TRANSLATION, 1 << 47 | 8),
                Taken(external(0), Some(1 << 47 | 8)),
            ),
            case(
                "a disk that nobody serves makes the guest wait",
                data_abort(transfer(2, 1) | TRANSLATION, DISK + 4),
                Waits,
            ),
        ],
    );
}

#[test]
fn an_access_that_the_syndrome_does_not_describe_is_decoded_from_the_guests_code() {
    let sim = Sim::new(&Options::default());
    let (low, high) = (0x0011, 0x0010);
    let x3 = |sim: &Sim| sim.x(G0, 3);
    // LDP W1, W2, [X3]; STP W1, W2, [X3]; LDP W1, W2, [X3], #8; LDRB W1, [X3, #1]!; LDXR W1, [X3]; LDADD W1, W2, [X3]
    let ids = UART + 0xfe0;
    run(
        &sim,
        &[
            decoded("a pair is two loads", 0x2940_0861, TRANSLATION, ids, Pair(low, high)),
            decoded(
                "a store of a pair is two stores",
                0x2900_0861,
                WNR | TRANSLATION,
                UART + 0x34,
                Pair(0x1111_2222_3333_4444, 0x5555_6666_7777_8888),
            ),
        ],
    );
    let post = decoded(
        "a pair may move its base",
        0x28c1_0861,
        TRANSLATION,
        ids,
        Pair(low, high),
    );
    run(&sim, &[post]);
    assert_eq!(x3(&sim), ids + 8);
    let byte = decoded(
        "a byte with its base moved before",
        0x3840_1c61,
        TRANSLATION,
        ids,
        Done(0x11),
    );
    prepare(&sim, &byte);
    sim.set_x(G0, 3, ids - 1);
    sim.trap(G0, byte.syndrome);
    assert_eq!((end(&sim, &byte), x3(&sim)), (Done(0x11), ids));
    run(
        &sim,
        &[
            decoded(
                "code that is no load or store by now aborts",
                NOP,
                TRANSLATION,
                ids,
                Taken(external(0), Some(ids)),
            ),
            decoded(
                "an exclusive load from a device aborts",
                0x885f_7c61,
                TRANSLATION,
                ids,
                Taken(external(0), Some(ids)),
            ),
            decoded(
                "an atomic addition to a device aborts",
                0xb821_0062,
                WNR | TRANSLATION,
                ids,
                Taken(external(WNR), Some(ids)),
            ),
            decoded(
                "a pair of which nobody has the second half aborts",
                0x2940_0861,
                TRANSLATION,
                CLOCK + 0xffc,
                Taken(external(0), Some(CLOCK + 0xffc)),
            ),
        ],
    );
    // The guest took the page with the instruction out of its map meanwhile: it is fetched again, and faults there.
    let gone = decoded("unmapped code", 0x2940_0861, TRANSLATION, ids, Again);
    prepare(&sim, &gone);
    sim.with(G0, |context| {
        context.cpu.fake.set_translation(|address, _| match address {
            CODE => Err(TranslationFault),
            other => Ok(Ipa(other)),
        });
    });
    sim.trap(G0, gone.syndrome);
    assert_eq!(end(&sim, &gone), Again);
}

#[test]
fn an_access_in_two_pages_is_whole_or_none() {
    let sim = Sim::new(&Options {
        guest: "trap-unmapped-accesses = <0>;",
        ..Options::default()
    });
    let word = DISTRIBUTOR + 0x1000;
    // LDR W1, [X3]
    let load = 0xb940_0061;
    run(
        &sim,
        &[
            Case {
                instruction: load,
                ..case(
                    "a load at the start of a page",
                    data_abort(transfer(2, 1) | TRANSLATION, word),
                    Done(0),
                )
            },
            case(
                "an access that lies in two pages of nothing",
                data_abort(transfer(2, 1) | TRANSLATION, NOWHERE & !0xfff | 0xffe),
                Done(0xffff_ffff),
            ),
        ],
    );
    let begins_in_memory = Case {
        instruction: load,
        ..case(
            "one that begins in memory",
            data_abort(transfer(2, 1) | TRANSLATION, RAM + RAM_SIZE),
            Taken(external(0), Some(RAM + RAM_SIZE)),
        )
    };
    prepare(&sim, &begins_in_memory);
    sim.set_x(G0, 3, RAM + RAM_SIZE - 2);
    sim.trap(G0, begins_in_memory.syndrome);
    assert_eq!(end(&sim, &begins_in_memory), begins_in_memory.end);
    // The page behind is elsewhere in the guest's own tables.
    sim.with(G0, |context| {
        context.cpu.fake.set_translation(|address, _| match address & !0xfff {
            0x1000_1000 => Ok(Ipa(0x2000_0000 | address & 0xfff)),
            _ => Ok(Ipa(address)),
        });
    });
    let split = NOWHERE & !0xfff | 0xffe;
    run(
        &sim,
        &[
            case(
                "pages that are not neighbours",
                data_abort(transfer(2, 1) | TRANSLATION, split),
                Taken(external(0), Some(split)),
            ),
            decoded(
                "a pair in pages that are not neighbours",
                0x2940_0861,
                TRANSLATION,
                split - 2,
                Pair(0xffff_ffff, 0xffff_ffff),
            ),
        ],
    );
}

#[test]
fn a_refused_access_whose_page_is_something_else_by_now_is_made_again() {
    let sim = Sim::new(&Options::default());
    sim.with(G0, |context| {
        // A virtual page that may be read but not written, over the UART.
        context.cpu.fake.set_translation(|address, access| match access {
            Access::Read => Ok(Ipa(address & 0xfff | UART)),
            Access::Write => Err(TranslationFault),
        });
    });
    let virtual_address = 0xffff_0000_0000_0fe0;
    let load = data_abort(transfer(2, 1) | PERMISSION, virtual_address);
    let store = data_abort(transfer(2, 1) | WNR | PERMISSION, virtual_address);
    run(
        &sim,
        &[
            // Nothing that the hypervisor emulates is mapped: what was refused was something else.
            case("a load", load, Again),
            case("a store", store, Again),
        ],
    );
}

#[test]
fn a_shared_page_is_read_and_written_but_code_is_fetched_from_ram_alone() {
    let sim = Sim::new(&Options::default());
    assert_eq!(sim.map_shared_info(G0, SHARED_GFN), 0);
    let shared = SHARED_GFN << 12;
    run(
        &sim,
        &[
            case(
                "a load is tried again",
                data_abort(transfer(2, 1) | PERMISSION, shared),
                Again,
            ),
            case(
                "the shared page may be written",
                data_abort(transfer(2, 1) | WNR | PERMISSION, shared),
                Again,
            ),
            case(
                "nothing is executed in it",
                instruction_abort(PERMISSION, shared),
                Taken(FETCH, Some(shared)),
            ),
            case(
                "a fetch from RAM is tried again",
                instruction_abort(TRANSLATION, CODE),
                Again,
            ),
            case(
                "a fetch from nowhere aborts",
                instruction_abort(TRANSLATION, NOWHERE),
                Taken(FETCH, Some(NOWHERE)),
            ),
            case(
                "a fetch from a device aborts",
                instruction_abort(TRANSLATION, UART),
                Taken(FETCH, Some(UART)),
            ),
            case(
                "a fetch that walks tables that lie nowhere aborts",
                with_hpfar(instruction_abort(S1PTW | TRANSLATION, CODE), NOWHERE >> 8),
                Taken(FETCH, Some(CODE)),
            ),
        ],
    );
}

#[test]
fn unclaimed_addresses_read_as_ones_where_the_manifest_says_so() {
    let sim = Sim::new(&Options {
        guest: "trap-unmapped-accesses = <0>;",
        ..Options::default()
    });
    run(
        &sim,
        &[
            case("a byte", data_abort(transfer(0, 1) | TRANSLATION, NOWHERE), Done(0xff)),
            case(
                "a word",
                data_abort(transfer(2, 1) | TRANSLATION, NOWHERE),
                Done(0xffff_ffff),
            ),
            case(
                "a signed halfword",
                data_abort(transfer(1, 1) | SSE | TRANSLATION, NOWHERE),
                Done(u64::MAX),
            ),
            case(
                "a store is dropped",
                data_abort(transfer(3, 1) | WNR | TRANSLATION, NOWHERE),
                Done(0x1111_2222_3333_4444),
            ),
            decoded(
                "a pair",
                0x2940_0861,
                TRANSLATION,
                NOWHERE,
                Pair(0xffff_ffff, 0xffff_ffff),
            ),
            decoded(
                "a pair of which only the first half is somebody's",
                0x2940_0861,
                TRANSLATION,
                CLOCK + 0xffc,
                Pair(0xb1, 0xffff_ffff),
            ),
            case(
                "behind the end of RAM",
                data_abort(transfer(2, 1) | TRANSLATION, RAM + RAM_SIZE + 8),
                Done(0xffff_ffff),
            ),
            case(
                "a walk of tables that lie nowhere still aborts",
                with_hpfar(data_abort(S1PTW | TRANSLATION, CODE), NOWHERE >> 8),
                Taken(external(0), Some(CODE)),
            ),
        ],
    );
}

#[test]
fn a_pair_in_a_servers_range_is_two_requests_and_one_instruction() {
    let sim = Sim::new(&Options::default());
    let server: Server = sim.serve(B0);
    let pair = decoded(
        "pair",
        0x2940_0861,
        TRANSLATION,
        DISK + 8,
        Pair(0xaaaa_0001, 0xbbbb_0002),
    );
    prepare(&sim, &pair);
    sim.trap(G0, pair.syndrome);
    assert_eq!(end(&sim, &pair), Waits);
    assert_eq!(sim.slot(BACKEND, &server, 0).addr, DISK + 8);
    sim.answer(B0, &server, 0, 0xffff_ffff_aaaa_0001);
    assert_eq!(end(&sim, &pair), Waits, "no register has changed yet");
    assert_eq!(sim.x(G0, 1), 0x1111_2222_3333_4444);
    assert_eq!(sim.slot(BACKEND, &server, 0).addr, DISK + 12);
    sim.answer(B0, &server, 0, 0xbbbb_0002);
    assert_eq!(end(&sim, &pair), pair.end);
}

#[test]
fn exceptions_that_are_the_guests_own_reach_it_as_they_are() {
    let sim = Sim::new(&Options::default());
    let at_el1 = |class: u64, iss: u64| class << 26 | 1 << 25 | iss;
    let with_far = |syndrome: Syndrome| Syndrome {
        far: 0x7777,
        ..syndrome
    };
    let hvc = |immediate| exception(0x16, immediate);
    run(
        &sim,
        &[
            case("an unknown instruction", exception(0, 0), Taken(UNDEFINED, None)),
            case("SMC with another number", exception(0x17, 1), Taken(UNDEFINED, None)),
            case("SVE", exception(0x19, 0), Taken(UNDEFINED, None)),
            case(
                "illegal state",
                with_far(exception(0x0e, 0)),
                Taken(at_el1(0x0e, 0), None),
            ),
            case(
                "PC alignment",
                with_far(exception(0x22, 0)),
                Taken(at_el1(0x22, 0), Some(0x7777)),
            ),
            case(
                "SP alignment",
                with_far(exception(0x26, 0)),
                Taken(at_el1(0x26, 0), None),
            ),
            case(
                "a breakpoint instruction",
                with_far(exception(0x3c, 5)),
                Taken(at_el1(0x3c, 5), None),
            ),
            case(
                "a watchpoint",
                with_far(exception(0x34, 0x22)),
                Taken(at_el1(0x35, 0x22), Some(0x7777)),
            ),
        ],
    );
    // HVC's return address is behind it; a number that nobody has is undefined at the instruction.
    let undefined = case("HVC with another number", hvc(0x1234), Taken(UNDEFINED, None));
    prepare(&sim, &undefined);
    sim.with(G0, |context| context.state.frame.pc += 4);
    sim.trap(G0, undefined.syndrome);
    assert_eq!(end(&sim, &undefined), undefined.end);
    assert_eq!(sim.with(G0, |context| context.state.frame.mode()), GuestMode::El1h);
}
