//! Where the BPF maps are pinned. The programs keep their maps without it, but the next agent would make new ones: what is
//! remembered of connections would be lost, and all programs swapped. Links are pinned by `program`: with theirs they are gone.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aya::maps::{MapData, MapError, MapInfo};
use redirect_common::maps::name;

use super::Context;
use super::ledger::Kind;
use crate::kernel::{bpf, file};

/// The maps that the programs look at, each with its pin. They are open, so their ids are nobody else's.
#[derive(Debug)]
pub(crate) struct Pins {
    /// Each is in the one before it or beside it.
    folders: Vec<PathBuf>,
    maps: Vec<Pinned>,
}

#[derive(Debug)]
struct Pinned {
    name: &'static str,
    pin: PathBuf,
    map: MapData,
    id: u32,
}

/// What is found in the place of a pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    Map(u32),
    Nothing,
    /// A file that is no map, which nobody can use.
    Other,
}

impl Pins {
    /// The maps that are pinned in `maps`, the last of `folders`.
    pub(crate) fn open(folders: &[PathBuf], maps: &Path) -> anyhow::Result<Self> {
        let open = |name: &'static str| {
            let pin = maps.join(name);
            let map = MapData::from_pin(&pin).with_context(|| format!("open {}", pin.display()))?;
            let id = map.info().with_context(|| format!("look at the map {name}"))?.id();
            Ok(Pinned { name, pin, map, id })
        };
        Ok(Self { folders: folders.to_vec(), maps: name::ALL.into_iter().map(open).collect::<anyhow::Result<_>>()? })
    }
}

/// Pins the maps again that are not pinned, or in whose place there is another, in folders that are root's alone.
pub(crate) fn converge(context: &mut Context<'_>, pins: &Pins) -> anyhow::Result<()> {
    for folder in &pins.folders {
        let Some(found) = wrong(folder)? else { continue };
        let outcome = file::make_directory(folder).and_then(|()| file::make_private(folder));
        let object = format!("folder {}", folder.display());
        context.ledger.mend(Kind::Pin, &object, found, "made root's alone", outcome.map_err(Into::into));
    }
    for pinned in &pins.maps {
        let found = look(&pinned.pin)?;
        let text = match found {
            Found::Map(id) if id == pinned.id => continue,
            Found::Map(id) => format!("another map (id {id})"),
            Found::Nothing => "nothing".into(),
            Found::Other => "no map".into(),
        };
        let outcome = pin(pinned);
        context.ledger.mend(Kind::Pin, &format!("map {}", pinned.name), text, "pinned", outcome);
    }
    Ok(())
}

/// What is wrong with the folder, if anything.
fn wrong(folder: &Path) -> anyhow::Result<Option<String>> {
    match fs::metadata(folder) {
        Ok(found) => {
            let mode = found.permissions().mode() & 0o7777;
            Ok((mode != file::PRIVATE).then(|| format!("mode {mode:o}")))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some("nothing".into())),
        Err(error) => Err(error).with_context(|| format!("look at {}", folder.display())),
    }
}

fn look(pin: &Path) -> anyhow::Result<Found> {
    match MapInfo::from_pin(pin) {
        Ok(info) => Ok(Found::Map(info.id())),
        Err(MapError::SyscallError(error)) => match error.io_error.kind() {
            ErrorKind::NotFound => Ok(Found::Nothing),
            // What `bpf_obj_do_get` (kernel/bpf/inode.c) says of a directory and of a file that is no object.
            _ if fs::symlink_metadata(pin).is_ok() => Ok(Found::Other),
            _ => Err(error).with_context(|| format!("look at {}", pin.display())),
        },
        Err(error) => Err(error).with_context(|| format!("look at {}", pin.display())),
    }
}

fn pin(pinned: &Pinned) -> anyhow::Result<()> {
    file::remove(&pinned.pin).with_context(|| format!("unpin {}", pinned.pin.display()))?;
    let what = format!("pin {}", pinned.name);
    bpf::write(&what, || Ok(pinned.map.pin(&pinned.pin)?)).with_context(|| format!("pin {}", pinned.pin.display()))
}
