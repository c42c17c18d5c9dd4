//! The command line of QEMU.
//!
//! The machine is emulated, not virtualised: `/dev/kvm` is often not there, and where it is it does not always run stock
//! kernels. What takes 12 s so takes 12 s everywhere.

use std::path::Path;
use std::process::Command;

use redirect_init::places::PORT;

use super::Guest;
use super::emulator::Emulator;

/// For the kernel. `panic=-1` with `-no-reboot` ends the machine on a panic. Emulated processors can stand still for long on a
/// busy host: the watchdog and RCU get more patience than they have by default, and the timer is taken for working (`check_timer`,
/// `arch/x86/kernel/apic/io_apic.c`, panics when it ticks too slowly at boot). What costs time and protects nothing in a
/// guest is off.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 loglevel=6 panic=-1 watchdog_thresh=30 \
    rcupdate.rcu_cpu_stall_timeout=300 no_timer_check mitigations=off init_on_alloc=0 audit=0";

/// QEMU with the kernel's console on its standard input (a socket) and the port to `redirect-init` on its standard output
/// (another): inherited like this, nobody else can hold them open.
pub(super) fn command(emulator: &Emulator, guest: &Guest, initramfs: &Path) -> Command {
    // QEMU must not outlive us, however we end.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(emulator.words());
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    // Without five levels of page tables, which each miss of the emulated TLB would walk: a tenth of all time.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]);
    command.args(["-smp", &guest.cpus.to_string(), "-m", &format!("{}M", guest.memory_mb)]);
    command.arg("-kernel").arg(&guest.kernel.image).arg("-initrd").arg(initramfs);
    command.args(["-append", KERNEL_COMMAND_LINE]);
    command.args(["-chardev", "socket,id=console,fd=0", "-serial", "chardev:console"]);
    command.args(["-chardev", "socket,id=port,fd=1", "-device", "virtio-serial-pci"]);
    command.args(["-device", &format!("virtserialport,chardev=port,nr={PORT}")]);
    if guest.network {
        // Without router advertisements, by which the guest's addresses and routes would have a running lifetime.
        command.args(["-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile="]);
    }
    command
}
