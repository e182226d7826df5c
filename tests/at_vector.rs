//! Calls that are answered at the vector: the same answers as the core's, and nothing else is touched.

use portunus::abi::HypercallError;
use portunus::abi::hypercall::{SCHED_OP, SYSCTL, VM_ASSIST, XEN_VERSION};
use portunus::abi::version;
use portunus::counters::Exit;
use portunus::hypercall::{Call, Hypercall, refused};
use portunus::hypervisor::at_vector::{Answered, answer};
use portunus::psci;
use portunus::trap::event::of_exception;
use portunus::trap::registers::GuestFrame;

const HYPERCALL: u64 = 0x5a00_0ea1;
const FIRMWARE_CALL: u64 = 0x5a00_0000;
const SECURE_CALL: u64 = 0x5e00_0000;

fn frame(x0: u64, x16: u64) -> GuestFrame {
    let mut frame = GuestFrame {
        x: core::array::from_fn(|index| 0x1111 * index as u64),
        pc: 0x4008_0004,
        pstate: 0x3c5,
    };
    frame.write(0, x0);
    frame.write(16, x16);
    frame
}

#[test]
fn what_is_answered_changes_x0_alone() {
    let xen = version::MAJOR << 16 | version::MINOR;
    for (what, esr, x0, x16, wanted) in [
        ("XENVER_version", HYPERCALL, version::VERSION, XEN_VERSION, xen),
        (
            "its operation is 32 bits",
            HYPERCALL,
            0xffff_ffff_0000_0000 | version::VERSION,
            XEN_VERSION,
            xen,
        ),
        (
            "a hypercall that does not exist",
            HYPERCALL,
            5,
            0x1234,
            HypercallError::NotImplemented.register(),
        ),
        (
            "a hypercall's number is 64 bits",
            HYPERCALL,
            version::VERSION,
            1 << 32 | XEN_VERSION,
            HypercallError::NotImplemented.register(),
        ),
        (
            "a number beyond those that exist",
            HYPERCALL,
            5,
            64 + XEN_VERSION,
            HypercallError::NotImplemented.register(),
        ),
        ("sysctl", HYPERCALL, 5, SYSCTL, HypercallError::NotPermitted.register()),
        ("PSCI_VERSION", FIRMWARE_CALL, 0x8400_0000, 5, psci::PSCI_1_1),
        (
            "a function is 32 bits",
            FIRMWARE_CALL,
            0xffff_ffff_8400_0000,
            5,
            psci::PSCI_1_1,
        ),
        ("SMCCC_VERSION", FIRMWARE_CALL, 0x8000_0000, 5, psci::SMCCC_1_2),
    ] {
        let (mut changed, mut expected) = (frame(x0, x16), frame(x0, x16));
        let exit = if esr == HYPERCALL {
            Exit::Hypercall
        } else {
            Exit::Firmware
        };
        let (kind, argument) = of_exception(esr, &changed);
        let answered = Answered { exit, kind, argument };
        assert_eq!(answer(esr, &mut changed), Some(answered), "{what}");
        expected.write(0, wanted);
        assert_eq!(changed, expected, "{what}");
    }
}

#[test]
fn everything_else_is_left_to_the_core() {
    for (what, esr, x0, x16) in [
        ("another operation", HYPERCALL, 1, XEN_VERSION),
        ("a hypercall that exists", HYPERCALL, version::VERSION, SCHED_OP),
        ("vm_assist", HYPERCALL, 5, VM_ASSIST),
        ("another immediate", HYPERCALL + 1, version::VERSION, XEN_VERSION),
        ("CPU_OFF", FIRMWARE_CALL, 0x8400_0002, 5),
        ("a function that does not exist", FIRMWARE_CALL, 0, 5),
        ("an SMC, whose PC is not behind it", SECURE_CALL, 0x8400_0000, 5),
        ("an HVC of AArch32", 0x4a00_0000, 0x8400_0000, 5),
        ("a data abort", 0x9200_0007, 0x8400_0000, XEN_VERSION),
    ] {
        let mut unchanged = frame(x0, x16);
        assert_eq!(answer(esr, &mut unchanged), None, "{what}");
        assert_eq!(unchanged, frame(x0, x16), "{what}");
    }
}

#[test]
fn what_a_number_alone_refuses_is_what_the_core_refuses() {
    for number in (0..200).chain([1 << 32, 1 << 32 | XEN_VERSION, 1 << 63, u64::MAX]) {
        let call = Call {
            number,
            arguments: [0; 5],
        };
        let by_core = match Hypercall::decode(&call) {
            Hypercall::Refused(error) => Some(error),
            _ => None,
        };
        assert_eq!(refused(number), by_core, "{number:#x}");
    }
}
