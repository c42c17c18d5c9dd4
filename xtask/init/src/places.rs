//! Where things are in a guest.

/// The command, a script for bash.
pub const COMMAND: &str = "/etc/redirect/command";
/// Modules to load: absolute paths, one per line, in order.
pub const MODULES: &str = "/etc/redirect/modules";
/// Where the host's `--copy` puts files.
pub const COPY: &str = "/copy";
/// Where the programs that were built are.
pub const PROGRAMS: &str = "/usr/local/bin";
/// The BPF object, for programs that load it.
pub const BPF_OBJECT: &str = "/usr/local/lib/redirect/redirect-ebpf.o";
/// Environment variable that has [`BPF_OBJECT`], or its place on the host.
pub const BPF_OBJECT_VARIABLE: &str = "REDIRECT_BPF_OBJECT";
/// Number of the virtio port over which the guest speaks with the host.
pub const PORT: u32 = 1;
/// The device of [`PORT`].
pub const PORT_DEVICE: &str = "/dev/vport0p1";
