//! Who may do what to whom: every right that a manifest gives, and a walk around each.

#[path = "manifest_support/domains.rs"]
mod domains;
#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "manifest_support/source.rs"]
mod source;

use domains::{DOMAINS, PARTIAL, read};
use machines::VIRT;
use portunus::ids::{DomainId, IntId};
use portunus::manifest::Manifest;
use portunus::policy::{Denied, Permission, Policy, Report};
use portunus::range::IpaRange;

const GUEST: DomainId = DomainId(1);
const BACKEND: DomainId = DomainId(2);
const OTHER: DomainId = DomainId(3);

fn policy() -> Policy {
    Policy::new(&read(VIRT, DOMAINS, PARTIAL).unwrap().1)
}

fn range(start: u64, size: u64) -> Permission {
    Permission::ServeRange(IpaRange::new(start, size))
}

#[test]
fn a_declared_device_gives_its_backend_exactly_its_rights() {
    let policy = policy();
    let raise = |number| Permission::RaiseInterrupt(IntId(number));
    let rows = [
        (BACKEND, Permission::Serve, GUEST, true),
        (BACKEND, Permission::MapMemory, GUEST, true),
        // The whole range, or a part of it.
        (BACKEND, range(0x200_0000, 0x200), GUEST, true),
        (BACKEND, range(0x200_0050, 4), GUEST, true),
        (BACKEND, range(0x200_1000, 0x1000), GUEST, true),
        (BACKEND, range(0x200_2000, 0x200), GUEST, true),
        // Nothing beside it.
        (BACKEND, range(0x200_0000, 0x201), GUEST, false),
        (BACKEND, range(0x1ff_ffff, 0x200), GUEST, false),
        (BACKEND, range(0x200_0200, 0x200), GUEST, false),
        (BACKEND, range(0x200_1000, 0x1200), GUEST, false),
        (BACKEND, range(0x300_1000, 0x1000), GUEST, false),
        (BACKEND, range(0x200_0000, 0), GUEST, false),
        (BACKEND, range(u64::MAX, 2), GUEST, false),
        (BACKEND, range(0, u64::MAX), GUEST, false),
        (BACKEND, raise(33), GUEST, true),
        (BACKEND, raise(34), GUEST, true),
        (BACKEND, raise(35), GUEST, true),
        (BACKEND, raise(32), GUEST, false),
        (BACKEND, raise(36), GUEST, false),
        (BACKEND, raise(27), GUEST, false),
        (BACKEND, raise(u32::MAX), GUEST, false),
        // A static channel exists already; it gives no right to open others.
        (BACKEND, Permission::OpenChannel, GUEST, false),
        (GUEST, Permission::OpenChannel, BACKEND, false),
        (GUEST, Permission::OpenChannel, GUEST, true),
        // Not the other way round, not to others, not to oneself.
        (GUEST, Permission::Serve, BACKEND, false),
        (GUEST, Permission::MapMemory, BACKEND, false),
        (GUEST, range(0x200_0000, 0x200), GUEST, false),
        (GUEST, raise(33), GUEST, false),
        (BACKEND, Permission::Serve, OTHER, false),
        (BACKEND, Permission::MapMemory, OTHER, false),
        (BACKEND, range(0x200_0000, 0x200), OTHER, false),
        (BACKEND, raise(33), OTHER, false),
        (BACKEND, Permission::Serve, BACKEND, false),
        (OTHER, Permission::Serve, GUEST, false),
        (OTHER, Permission::MapMemory, GUEST, false),
        (OTHER, range(0x200_0000, 0x200), GUEST, false),
        (OTHER, raise(33), GUEST, false),
        // Numbers that name nobody.
        (BACKEND, Permission::Serve, DomainId(0), false),
        (DomainId(0), Permission::Serve, GUEST, false),
        (BACKEND, Permission::MapMemory, DomainId(17), false),
        (BACKEND, Permission::MapMemory, DomainId::SELF, false),
        (DomainId::SELF, Permission::OpenChannel, DomainId::SELF, false),
        (DomainId(u16::MAX), Permission::MapMemory, GUEST, false),
    ];
    for (subject, permission, object, given) in rows {
        let expected = if given {
            Ok(())
        } else {
            Err(Denied {
                subject,
                permission,
                object,
            })
        };
        assert_eq!(
            policy.decide(subject, permission, object),
            expected,
            "{subject:?} {permission} {object:?}"
        );
    }
}

#[test]
fn a_device_without_memory_access_gives_none() {
    let domains = DOMAINS.replace("portunus,memory-access = \"all\"", "portunus,memory-access = \"none\"");
    let policy = Policy::new(&read(VIRT, &domains, PARTIAL).unwrap().1);
    assert_eq!(policy.decide(BACKEND, Permission::Serve, GUEST), Ok(()));
    assert!(policy.decide(BACKEND, Permission::MapMemory, GUEST).is_err());
}

#[test]
fn an_empty_manifest_gives_nothing() {
    let policy = Policy::new(&Manifest::default());
    for subject in 0..20 {
        for object in 0..20 {
            for permission in [
                Permission::Serve,
                Permission::MapMemory,
                range(0, 1),
                Permission::RaiseInterrupt(IntId(33)),
            ] {
                assert!(policy.decide(DomainId(subject), permission, DomainId(object)).is_err());
            }
        }
    }
}

#[test]
fn a_denial_reads_as_a_sentence() {
    let denied = policy().decide(OTHER, range(0x200_0000, 0x200), GUEST).unwrap_err();
    assert_eq!(
        denied.to_string(),
        "domain 3 may not serve 0x2000000..0x2000200 of domain 1"
    );
}

#[test]
fn the_report_lists_domains_devices_and_every_right() {
    let (host, manifest) = read(VIRT, DOMAINS, PARTIAL).unwrap();
    let policy = Policy::new(&manifest);
    let report = Report {
        host: &host,
        manifest: &manifest,
        policy: &policy,
    }
    .to_string();
    let expected = r#"machine: 4 CPUs, GICv3, RAM 0x40000000..0xc0000000
  console /pl011@9000000

domain 1 domU1: 2 vCPUs, 262144 KiB, share 50
  vCPU 0 on CPU 0 1 3
  kernel at 0x50000000..0x51e00000, ramdisk at 0x54000000..0x54180000
  command line: console=ttyAMA0 root=/dev/vda
  RAM at 0x40000000..0x50000000
  GICv3 at 0x3001000..0x3011000 and 0x3020000..0x3060000, 32 SPIs
  UART at 0x22000000..0x22001000, INTID 32
  real-time clock at 0x22001000..0x22002000, INTID 36
  after a crash: stop, a reboot: restart, its watchdog: restart; at most 5 restarts in 60 s
  device disk0: block at 0x2000000..0x2000200, INTID 33, served by dm from partition 2 of /passthrough/virtio@a003000, 4 queues, memory: all, at most 65536 pages mapped; answer within 250 ms, attach within 0 ms, then abort
  device net0: net at 0x2001000..0x2002000, INTID 34, served by dm, 1 queues, memory: none, accelerated; answer within 5000 ms, attach within 60000 ms, then wait
  device disk1: block at 0x2002000..0x2002200, INTID 35, served by dm from a RAM disk of 16 MiB, 1 queues, memory: all, at most 65536 pages mapped, read-only; answer within 5000 ms, attach within 60000 ms, then wait
"#;
    assert!(report.starts_with(expected), "{report}");
    for line in [
        "  TRUSTED LIKE THE HYPERVISOR: its devices reach all memory",
        "  owns /virtio_mmio@a003000 0xa003000..0xa004000 INTID 72",
        "  after a crash: power-off, a reboot: stop, its watchdog: power-off; at most 3 restarts in 10 s",
        "  unserved addresses read as ones",
        "event channel: domU1 port 10 <-> dm port 11",
        "rights (all else is denied):",
        "note: /chosen/domU1/portunus,devices/disk0: portunus,transport: ignored: Argo is not there; the next transport is used",
    ] {
        assert!(report.lines().any(|found| found == line), "{line}\n{report}");
    }
    let rights: Vec<_> = report.lines().filter(|line| line.contains(" may ")).collect();
    assert_eq!(
        rights,
        [
            "  dm may serve devices of domU1",
            "  dm may map memory of domU1",
            "  dm may control the life of domU1",
            "  dm may serve 0x2000000..0x2000200 of domU1",
            "  dm may serve 0x2001000..0x2002000 of domU1",
            "  dm may serve 0x2002000..0x2002200 of domU1",
            "  dm may raise INTID 33 of domU1",
            "  dm may raise INTID 34 of domU1",
            "  dm may raise INTID 35 of domU1",
        ]
    );
}
