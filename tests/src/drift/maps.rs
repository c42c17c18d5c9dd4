//! BPF maps and where they are pinned: what is in them, made another behind the agent's back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use redirect_common::maps::name;
use serde::Deserialize;

use super::{Removal, Way};
use crate::command::Cmd;
use crate::lab::Lab;
use crate::snapshot::Section;

/// Maps that the agent fills. First the one by which pods are meshed: a short run changes what comes first.
const FILLED: [&str; 4] = [name::PODS, name::CONFIG, name::NODE, name::PORTS];

#[derive(Deserialize)]
struct Entry {
    key: Vec<String>,
    value: Vec<String>,
}

/// Each pin with the map that it is of, the entries of those that the agent fills, and the folders' modes.
pub fn describe_maps(lab: &Lab) -> Result<String> {
    let mut lines = Vec::new();
    for map in name::ALL {
        let id =
            MapInfo::from_pin(lab.map_pin(map)).map_or_else(|error| error.to_string(), |info| info.id().to_string());
        lines.push(format!("{map} {id}\n"));
    }
    for map in FILLED {
        let mut entries: Vec<_> = entries(lab, map)?.into_iter().map(|entry| show(map, &entry)).collect();
        entries.sort();
        lines.extend(entries);
    }
    for folder in [lab.bpf_dir(), lab.bpf_dir().join("links"), lab.layout_dir(), lab.layout_dir().join("maps")] {
        let mode = fs::metadata(&folder).map_or(0, |found| found.permissions().mode());
        lines.push(format!("{} {mode:o}\n", folder.display()));
    }
    Ok(lines.concat())
}

fn show(map: &str, entry: &Entry) -> String {
    format!("{map} {} = {}\n", entry.key.join(" "), entry.value.join(" "))
}

fn entries(lab: &Lab, map: &str) -> Result<Vec<Entry>> {
    let said = Cmd::line(&format!("bpftool -j map dump pinned {}", lab.map_pin(map).display())).run()?;
    serde_json::from_str(&said).with_context(|| format!("bpftool says {said:?}"))
}

/// Entries that go, change and come; pins that go, and that are another map's; a folder that others may look into.
pub fn changes_of_maps(lab: &Lab) -> Result<Vec<Removal>> {
    let mut all = Vec::new();
    let mut add = |told: bool, kind: &'static str, command: String| {
        let change = Removal::by(Section::Programs, kind, &command, command.clone());
        all.push(if told { change } else { change.untold() });
    };
    for map in FILLED {
        let pin = lab.map_pin(map);
        let update = |key: &[String], value: &[String]| {
            format!("bpftool map update pinned {} key {} value {}", pin.display(), key.join(" "), value.join(" "))
        };
        for entry in entries(lab, map)?.into_iter().take(1) {
            add(false, "map entry changed", update(&entry.key, &turned(&entry.value)));
            if map != name::CONFIG {
                add(false, "map entry added", update(&turned(&entry.key), &entry.value));
                let key = entry.key.join(" ");
                add(false, "map entry removed", format!("bpftool map delete pinned {} key {key}", pin.display()));
            }
        }
    }
    for map in name::ALL {
        add(true, "map's pin removed", format!("rm {}", lab.map_pin(map).display()));
    }
    add(
        true,
        "map's pin replaced",
        format!("mv {} {}", lab.map_pin(name::NODE).display(), lab.map_pin(name::PODS).display()),
    );
    add(true, "folder of pins opened", format!("chmod 755 {}", lab.layout_dir().join("maps").display()));
    add(true, "folder of pins removed", format!("rm -r {}", lab.layout_dir().display()));
    let pins = fs::read_dir(lab.bpf_dir().join("links"))?.map(|pin| Ok(pin?.path()));
    let pins = pins.collect::<Result<Vec<_>>>()?;
    for pin in &pins {
        add(false, "program detached", format!("bpftool link detach pinned {}", pin.display()));
    }
    all.extend(pins.into_iter().map(|pin| Removal {
        what: format!("another's program in the link {}", pin.display()),
        kind: "program swapped",
        told: false,
        section: Section::Programs,
        way: Way::Swap(pin),
    }));
    Ok(all)
}

/// Another of the same length.
fn turned(bytes: &[String]) -> Vec<String> {
    let mut bytes = bytes.to_vec();
    if let Some(last) = bytes.last_mut() {
        let other = if last.as_str() == "0x77" { "0x78" } else { "0x77" };
        other.clone_into(last);
    }
    bytes
}
