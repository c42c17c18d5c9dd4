use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::super::replace::directly;
use super::*;

const LIST: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"}]}"#;
const SINGLE: &str = "{\"cniVersion\":\"0.3.1\", \"name\":\"n\",\"type\":\"bridge\" }\n";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn content_of(folder: &TempDir) -> Vec<(String, String)> {
    let names = names(folder.path()).unwrap();
    let text = |name: &OsString| fs::read_to_string(folder.path().join(name)).unwrap();
    names.iter().map(|name| (name.to_str().unwrap().to_owned(), text(name))).collect()
}

fn installed(folder: &TempDir) -> Result<Outcome, ConflistError> {
    install_in(folder.path(), &Entry::default(), &directly)
}

#[test]
fn the_first_by_name_of_three_suffixes() {
    let first = |names: &[&str]| primary(names.iter().map(OsString::from)).map(|it| it.into_string().unwrap());
    assert_eq!(first(&["99-a.conflist", "10-b.conf", "05-c.json"]).unwrap(), "05-c.json");
    assert_eq!(first(&["10-a.conflist", "10-a.conf"]).unwrap(), "10-a.conf");
    assert_eq!(first(&["b.conflist", "B.conf"]).unwrap(), "B.conf");
    assert_eq!(first(&["b.conf", ".hidden.conf"]).unwrap(), ".hidden.conf");
    assert_eq!(first(&["a.conf.bak", "b.yaml", "conf", "c.CONF", ".redirect-cni.1.0.tmp"]), None);
}

#[test]
fn in_twice_and_out_twice() {
    let before = [("05-x.bak", "?"), ("10-a.conflist", LIST), ("20-b.conf", SINGLE), ("87-podman.conflist", LIST)];
    let folder = folder(&before);
    let path = folder.path().join("10-a.conflist");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    assert_eq!(installed(&folder).unwrap(), Outcome::Written(path.clone()));
    assert!(fs::read_to_string(&path).unwrap().contains("redirect-cni"));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o604);
    assert_eq!(installed(&folder).unwrap(), Outcome::Unchanged(path.clone()));
    uninstall_from(folder.path(), &directly).unwrap();
    let twice = uninstall_from(folder.path(), &directly).unwrap();
    assert!(twice.iter().all(|it| matches!(it, Outcome::Unchanged(_))), "{twice:?}");
    assert_eq!(content_of(&folder), before.map(|(name, text)| (name.to_owned(), text.to_owned())));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o604);
}

#[test]
fn another_rewrites_the_file_and_it_is_put_right() {
    let folder = folder(&[("10-a.conflist", LIST)]);
    installed(&folder).unwrap();
    let path = folder.path().join("10-a.conflist");
    fs::write(&path, LIST).unwrap();
    assert_eq!(installed(&folder).unwrap(), Outcome::Written(path));
}

#[test]
fn an_entry_in_a_file_that_is_not_primary_any_more_is_taken_out_too() {
    let folder = folder(&[("10-a.conflist", LIST), (".redirect-cni.0123.tmp", "{ \"half")]);
    installed(&folder).unwrap();
    fs::write(folder.path().join("05-b.conflist"), LIST).unwrap();
    installed(&folder).unwrap();
    uninstall_from(folder.path(), &directly).unwrap();
    assert_eq!(content_of(&folder).len(), 2, "half-written ones go, too");
    assert!(content_of(&folder).iter().all(|(_, text)| text == LIST));
}

#[test]
fn a_single_one_becomes_a_list_and_comes_back() {
    for name in ["10-a.conf", "10-a.json"] {
        let folder = folder(&[(name, SINGLE), ("99-z.conflist", LIST)]);
        let (from, to) = (folder.path().join(name), folder.path().join("10-a.conflist"));
        fs::set_permissions(&from, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(installed(&folder).unwrap(), Outcome::Renamed(from.clone(), to.clone()));
        assert!(!from.exists());
        assert_eq!(installed(&folder).unwrap(), Outcome::Unchanged(to.clone()));
        // Its owner writes it anew, as some do at each start.
        fs::write(&from, SINGLE).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(installed(&folder), Ok(Outcome::Renamed(..) | Outcome::Unchanged(_))));
        drop(fs::remove_file(&from));
        let out = uninstall_from(folder.path(), &directly).unwrap();
        assert!(out.contains(&Outcome::Renamed(to, from.clone())), "{out:?}");
        assert_eq!(content_of(&folder), [(name.into(), SINGLE.into()), ("99-z.conflist".into(), LIST.into())]);
        assert_eq!(fs::metadata(&from).unwrap().mode() & 0o7777, 0o640);
    }
}

#[test]
fn an_original_that_has_come_back_is_kept() {
    let folder = folder(&[("10-a.conf", SINGLE)]);
    installed(&folder).unwrap();
    let newer = SINGLE.replace("bridge", "ptp");
    fs::write(folder.path().join("10-a.conf"), &newer).unwrap();
    uninstall_from(folder.path(), &directly).unwrap();
    assert_eq!(content_of(&folder), [("10-a.conf".to_owned(), newer)]);
}

#[test]
fn a_list_of_another_is_not_overwritten() {
    let before = [("10-a.conf", SINGLE), ("10-a.conflist", LIST)];
    let folder = folder(&before);
    assert!(
        matches!(installed(&folder), Err(ConflistError::At(_, inner)) if matches!(*inner, ConflistError::Taken(_)))
    );
    assert_eq!(content_of(&folder), before.map(|(name, text)| (name.to_owned(), text.to_owned())));
}

#[test]
fn what_is_broken_is_an_error_and_stays() {
    for name in ["10-a.conflist", "10-a.conf"] {
        let before = [(name, "{ \"redirect-cni\": "), ("20-b.conflist", LIST)];
        let folder = folder(&before);
        let error = installed(&folder).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(uninstall_from(folder.path(), &directly).is_err(), name == "10-a.conflist");
        assert_eq!(content_of(&folder), before.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }
}

#[test]
fn a_broken_file_keeps_nothing_in_the_others() {
    let folder = folder(&[("20-b.conflist", LIST)]);
    installed(&folder).unwrap();
    fs::write(folder.path().join("10-a.conflist"), "{ redirect-cni").unwrap();
    fs::write(folder.path().join("15-a.conflist"), "{ broken, and not by us").unwrap();
    assert!(uninstall_from(folder.path(), &directly).unwrap_err().to_string().contains("10-a"));
    assert_eq!(fs::read_to_string(folder.path().join("20-b.conflist")).unwrap(), LIST);
}

#[test]
fn links_large_files_and_nothing() {
    let large = " ".repeat(3 << 20);
    let target = folder(&[("list", LIST)]);
    let folder = folder(&[]);
    assert!(matches!(installed(&folder), Err(ConflistError::None(_))));
    assert!(matches!(install_in(&folder.path().join("no"), &Entry::default(), &directly), Err(ConflistError::None(_))));
    assert!(uninstall_from(&folder.path().join("no"), &directly).unwrap().is_empty());
    symlink(target.path().join("list"), folder.path().join("10-a.conflist")).unwrap();
    assert!(installed(&folder).unwrap_err().to_string().contains("regular file"));
    uninstall_from(folder.path(), &directly).unwrap();
    assert_eq!(fs::read_to_string(target.path().join("list")).unwrap(), LIST);
    fs::write(folder.path().join("05-a.conflist"), large).unwrap();
    assert!(installed(&folder).unwrap_err().to_string().contains("bytes"));
}

#[test]
fn what_another_writes_meanwhile_is_not_lost() {
    let folder = folder(&[("10-a.conflist", LIST)]);
    let path = folder.path().join("10-a.conflist");
    let current = Current::read(&path).unwrap();
    fs::write(&path, SINGLE).unwrap();
    let late = replace(&path, b"ours", current.attributes, &directly, || current.still(&path));
    assert!(matches!(late, Err(ConflistError::Changed)));
    assert_eq!(fs::read_to_string(&path).unwrap(), SINGLE);
}
