//! The GICv2 driver on a model of the R-Car H3's controller that checks every access, by the rules that
//! `boards/rcar-h3/registers.md` lists.

#[path = "support/model.rs"]
mod model;

use model::Access::{Read, Write};
use model::Block::{Gicc, Gicd, Gich};
use model::{Model, View};
use portunus::ids::{IntId, PcpuId};
use portunus::registers::DeviceRegisters;
use portunus::vgic::list_register::{Backing, ListRegister, LrState, PriorityMask};
use portunus_gic::v2::GicV2;
use portunus_gic::{KICK, PRIORITY, VirtualState};

const REPEATED: usize = 0x2_0000;
const TIMER: u32 = 26;
const SPI: u32 = 196;

/// The interfaces of CPUs 0 to 7 of a machine that wires them as it likes.
const INTERFACES: [u8; 8] = [1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 0, 1 << 1, 1 << 2, 1 << 3];

fn blocks(model: &'static Model) -> [View; 3] {
    [Gicd, Gicc, Gich].map(|block| View(model, block))
}

/// The controller with every CPU set up, CPU 0 running.
fn controller() -> (&'static Model, GicV2<View>) {
    let model: &'static Model = Box::leak(Box::new(Model::new(&INTERFACES, REPEATED, true)));
    let gic = GicV2::new(blocks(model), REPEATED as u64);
    for cpu in (0..8).rev() {
        model.run_on(cpu);
        assert!(gic.init_cpu(PcpuId(cpu as u8), 0));
        gic.bank(PcpuId(cpu as u8), KICK).enable(KICK, true);
    }
    model.accesses();
    (model, gic)
}

#[test]
fn what_firmware_left_of_every_interrupt_is_gone() {
    let (model, _) = controller();
    for interrupt in 1..512 {
        assert_eq!(model.look(interrupt), (false, false, false), "interrupt {interrupt}");
        if interrupt >= 32 {
            assert_eq!(model.routing(interrupt).0, PRIORITY, "interrupt {interrupt}");
        }
    }
    assert_eq!(model.look(KICK.0), (true, false, false));
}

#[test]
fn a_cpu_is_ready_with_no_list_register_in_use() {
    let (model, gic) = controller();
    assert_eq!(gic.list_registers(), 4);
    for cpu in 0..8 {
        model.run_on(cpu);
        assert_eq!(model.virtual_state(), [0; 3], "CPU {cpu}");
        assert_eq!(gic.free(), 0xf, "CPU {cpu}");
    }
    assert!(!gic.init_cpu(PcpuId(8), 0), "a CPU that nobody reserved anything for");
}

#[test]
fn the_pages_of_gicc_are_found_by_size_and_by_what_the_controller_says() {
    let rows = [
        (0x2_0000, true, true, 0x1_0000),
        (0x2_0000, false, false, 0x1000),
        (0x1_0000, true, false, 0x1000),
        (0x2000, false, false, 0x1000),
    ];
    for (size, repeated, expected, deactivation) in rows {
        let what = format!("{size:#x} bytes, repeated: {repeated}");
        let model: &'static Model = Box::leak(Box::new(Model::new(&[1], size, repeated)));
        let gic = GicV2::new(blocks(model), size as u64);
        assert_eq!(gic.is_repeated(), expected, "{what}");
        let asked = model.accesses().contains(&Read(Gicc, 0xf0fc));
        assert_eq!(
            asked,
            size == 0x2_0000 && repeated,
            "{what}: only what the block has is read"
        );
        if repeated && !expected {
            // A tree that tells too small a size of such a controller: there is no way to reach GICC_DIR.
            continue;
        }
        assert!(gic.init_cpu(PcpuId(0), 0));
        gic.bank(PcpuId(0), IntId(TIMER)).enable(IntId(TIMER), true);
        model.raise(TIMER);
        let taken = gic.acknowledge().expect("an interrupt");
        gic.drop_priority(taken);
        gic.deactivate(taken.raw);
        assert_eq!(model.look(TIMER), (true, false, false), "{what}");
        let last = model.accesses().pop();
        assert_eq!(last, Some(Write(Gicc, deactivation, TIMER)), "{what}");
    }
}

#[test]
fn an_interrupt_is_acknowledged_dropped_and_ended_once_each() {
    let (model, gic) = controller();
    let spi = IntId(SPI);
    assert_eq!(gic.acknowledge(), None, "spurious");
    assert_eq!(model.accesses(), [Read(Gicc, 0xc)]);
    gic.route(spi, PcpuId(0));
    gic.bank(PcpuId(0), spi).configure(spi, true);
    gic.bank(PcpuId(0), spi).enable(spi, true);
    model.raise(SPI);
    model.accesses();
    let taken = gic.acknowledge().expect("the SPI");
    assert_eq!(taken.interrupt, spi);
    gic.drop_priority(taken);
    assert_eq!(model.look(SPI), (true, false, true), "active until it is ended");
    model.raise(SPI);
    assert_eq!(gic.acknowledge(), None, "not again while it is active");
    gic.deactivate(taken.raw);
    let expected = [
        Read(Gicc, 0xc),
        Write(Gicc, 0x10, SPI),
        Read(Gicc, 0xc),
        Write(Gicc, 0x1_0000, SPI),
    ];
    assert_eq!(model.accesses(), expected);
    assert_eq!(gic.acknowledge().map(|taken| taken.interrupt), Some(spi));
}

#[test]
fn interrupts_of_both_clusters_are_taken_where_they_are_routed_whatever_their_mpidr() {
    let (model, gic) = controller();
    let spi = IntId(SPI);
    gic.bank(PcpuId(0), spi).enable(spi, true);
    for cpu in 0..8 {
        gic.route(spi, PcpuId(cpu));
        assert_eq!(model.routing(SPI).1, INTERFACES[usize::from(cpu)], "CPU {cpu}");
        model.raise(SPI);
        for other in 0..8 {
            model.run_on(usize::from(other));
            let taken = gic.acknowledge();
            assert_eq!(taken.is_some(), other == cpu, "SPI for CPU {cpu} on CPU {other}");
            if let Some(taken) = taken {
                gic.drop_priority(taken);
                gic.deactivate(taken.raw);
            }
        }
    }
    gic.route(IntId(TIMER), PcpuId(1));
    gic.route(spi, PcpuId(9));
    assert_eq!(
        model.routing(SPI).1,
        INTERFACES[7],
        "neither private interrupts nor CPUs that there are none of"
    );
}

#[test]
fn a_kick_reaches_the_cpu_that_is_meant_and_is_ended_with_its_sender() {
    let (model, gic) = controller();
    for (from, to) in [(0, 7), (7, 0), (3, 3), (5, 1)] {
        model.run_on(from);
        model.accesses();
        gic.kick(PcpuId(to as u8));
        let target = u32::from(INTERFACES[to]) << 16;
        assert_eq!(model.accesses(), [Write(Gicd, 0xf00, target | KICK.0)]);
        model.run_on(to);
        let taken = gic.acknowledge().expect("a kick");
        assert_eq!(taken.interrupt, KICK);
        assert_eq!(taken.raw >> 10, INTERFACES[from].trailing_zeros(), "its sender");
        gic.drop_priority(taken);
        gic.deactivate(taken.raw);
        assert_eq!(gic.acknowledge(), None, "one kick, one interrupt");
    }
}

#[test]
fn nested_interrupts_are_dropped_last_one_first() {
    let (model, gic) = controller();
    for interrupt in [TIMER, 27] {
        gic.bank(PcpuId(0), IntId(interrupt)).enable(IntId(interrupt), true);
        model.raise(interrupt);
    }
    let first = gic.acknowledge().expect("26");
    let second = gic.acknowledge().expect("27");
    gic.drop_priority(second);
    gic.drop_priority(first);
    gic.deactivate(first.raw);
    gic.deactivate(second.raw);
    assert_eq!([TIMER, 27].map(|interrupt| model.look(interrupt).2), [false, false]);
}

fn pending(interrupt: u32, backing: Backing) -> ListRegister {
    ListRegister {
        interrupt: IntId(interrupt),
        priority: 0xa0,
        group1: true,
        state: LrState::Pending,
        backing,
    }
}

const SOFTWARE: Backing = Backing::Software {
    maintenance: false,
    source: 0,
};

#[test]
fn list_registers_hold_what_is_written_and_tell_what_the_guest_made_of_it() {
    let (model, gic) = controller();
    let sgi = Backing::Software {
        maintenance: true,
        source: 3,
    };
    let rows = [
        pending(27, Backing::Physical(IntId(27))),
        pending(5, sgi),
        pending(33, SOFTWARE),
        pending(SPI, Backing::Physical(IntId(SPI))),
    ];
    for (index, row) in rows.into_iter().enumerate() {
        gic.write(index, Some(row));
        assert_eq!(gic.read(index), Some(row));
    }
    assert_eq!(gic.free(), 0);
    model.guest(2, true);
    assert_eq!(gic.state(2), LrState::Active);
    assert_eq!(gic.lower(2), LrState::Active, "what the guest has taken stays");
    assert_eq!(gic.lower(1), LrState::Inactive, "what it has not taken goes");
    model.guest(0, false);
    assert_eq!((gic.read(0), gic.free()), (None, 0b0011));
    gic.write(3, None);
    assert_eq!(gic.free(), 0b1011);
    let written = model.accesses();
    assert!(
        written
            .iter()
            .all(|access| matches!(access, Read(Gich, _) | Write(Gich, _, _)))
    );
}

#[test]
fn a_vcpus_interface_is_saved_and_comes_back_before_it_is_enabled() {
    let (model, gic) = controller();
    gic.reset_virtual();
    assert_eq!(model.virtual_state(), [1, 0, 0]);
    // Priority mask 0xf0, both binary points, group 1 on, EOImode 1; an active interrupt of priority 0xa0.
    let (vmcr, apr) = (0xf04c_0202, 1 << 20);
    model.guest_state(vmcr, apr);
    let (mut saved, mut again) = (VirtualState::default(), VirtualState::default());
    gic.save_virtual::<false>(&mut saved);
    gic.save_virtual::<true>(&mut again);
    for saved in [&saved, &again] {
        assert_eq!((saved.vmcr, saved.active[0]), (u64::from(vmcr), u64::from(apr)));
    }
    gic.reset_virtual();
    assert_eq!(model.virtual_state(), [1, 0, 0], "the next vCPU finds nothing of it");
    gic.set_virtual_control(0);
    model.accesses();
    gic.restore_virtual(&mut saved);
    let order = [Write(Gich, 0x008, vmcr), Write(Gich, 0x0f0, apr), Write(Gich, 0x000, 1)];
    assert_eq!(model.accesses(), order);
    let mask = PriorityMask {
        threshold: 0xf0,
        group0: false,
        group1: true,
    };
    assert_eq!(gic.mask(), mask);
}

#[test]
fn the_maintenance_interrupt_is_asked_for_and_the_interface_is_left_as_it_was() {
    let (model, gic) = controller();
    gic.reset_virtual();
    gic.set_no_pending(true);
    assert_eq!(gic.virtual_control(), 1 | 1 << 3);
    let control = gic.virtual_control();
    gic.set_virtual_control(0);
    assert_eq!(model.virtual_state()[0], 0);
    gic.set_virtual_control(control);
    gic.set_no_pending(false);
    assert_eq!(gic.virtual_control(), 1);
}

#[test]
fn an_spi_that_changes_hands_is_quiet() {
    let (model, gic) = controller();
    let spi = IntId(SPI);
    let bank = gic.bank(PcpuId(0), spi);
    bank.configure(spi, true);
    bank.enable(spi, true);
    bank.set_active(spi, true);
    model.raise(SPI);
    bank.enable(spi, false);
    bank.clear_pending(spi);
    bank.set_active(spi, false);
    assert_eq!(model.look(SPI), (false, false, false));
    bank.configure(spi, false);
    assert_eq!(model.look(SPI + 1), (false, false, false), "its neighbour is as it was");
}

/// What a driver must not do, and how the model says so.
#[test]
fn the_model_notices_what_breaks_a_rule() {
    type Deed = fn(&Model, [View; 3]);
    let rows: [(&str, Deed); 16] = [
        ("can't be written", |_, [gicd, ..]| gicd.write_u8(0x803, 1)),
        ("can't be written", |_, [gicd, ..]| gicd.write_u32(0x004, 0)),
        ("can't be read", |_, [_, gicc, _]| {
            gicc.read_u32(0x10);
        }),
        ("another width", |_, [gicd, ..]| gicd.write_u8(0x100, 1)),
        ("another width", |_, [_, gicc, _]| {
            gicc.read_u16(0x0c);
        }),
        ("no register", |_, [gicd, ..]| {
            gicd.read_u32(0xe00);
        }),
        ("reserved bits", |_, [gicd, ..]| gicd.write_u32(0xf00, 1 << 16 | 1 << 4)),
        ("reserved bits", |_, [.., gich]| gich.write_u32(0, 1 << 8)),
        ("rule 1", |_, [gicd, ..]| gicd.write_u32(0x4c4, 0)),
        ("rule 1", |_, [gicd, ..]| {
            gicd.write_u32(0x100 + 4 * 6, 1 << 4);
            gicd.write_u32(0xc00 + 4 * 12, 0x5555_5755);
        }),
        ("rule 2", |model, [gicd, gicc, _]| {
            gicd.write_u32(0x100, 3 << 26);
            model.raise(26);
            model.raise(27);
            let (first, _second) = (gicc.read_u32(0xc), gicc.read_u32(0xc));
            gicc.write_u32(0x10, first);
        }),
        ("rule 3", |model, [gicd, gicc, _]| {
            gicd.write_u32(0x100, 1 << 26);
            model.raise(26);
            let raw = gicc.read_u32(0xc);
            gicc.write_u32(0x1_0000, raw);
        }),
        ("rule 5", |_, [gicd, ..]| gicd.write_u32(0xf00, 0)),
        ("rule 6", |_, [gicd, ..]| gicd.write_u8(0x8c4, 3)),
        ("rule 7", |_, [.., gich]| {
            gich.write_u32(0x100, 1 << 28 | 40);
            gich.write_u32(0x104, 1 << 28 | 40);
        }),
        ("rule 7", |_, [.., gich]| {
            gich.write_u32(0x100, 1 << 31 | 3 << 28 | 40 << 10 | 40)
        }),
    ];
    for (expected, deed) in rows {
        let (model, _) = controller();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| deed(model, blocks(model))));
        let error = result.expect_err(expected);
        let text = error
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| error.downcast_ref::<&str>().map(ToString::to_string));
        let text = text.unwrap_or_default();
        assert!(text.contains(expected), "{expected}: {text}");
    }
}
